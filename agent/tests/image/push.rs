//! Pushing to Debian's docker-registry, a server that we did not write.

use berth::image::{Auth, ErrorKind, PullRequest};

use crate::Fixture;
use crate::build::{Image, files, noise};
use crate::docker_registry::DockerRegistry;
use crate::server::Server;

/// `user` and `secret`, by bcrypt.
const PASSWORDS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A store with an image of a small layer and one of `size` bytes.
async fn fixture(size: usize) -> (Fixture, String) {
    let (server, fixture) = (Server::start(), Fixture::new());
    let image = Image::gzip(&[files(&[("small", b"small")]), files(&[("large", &noise(size, 9))])]);
    let reference = server.push("app", "1", &image);
    fixture.pull(&reference).await.unwrap();
    (fixture, reference)
}

#[tokio::test]
async fn a_pushed_image_is_pulled_again_and_nothing_is_sent_twice() {
    // Above 16 MiB it goes in two parts.
    let (fixture, name) = fixture(17 << 20).await;
    let registry = DockerRegistry::start().await;
    let target = format!("{}/team/app:2", registry.address);
    let pushed = fixture.store.push(&name, &target, None).await.unwrap();
    assert!(pushed.sent > 17 << 20, "{pushed:?}");
    let other = Fixture::new();
    let id = other.pull(&target).await.unwrap();
    assert_eq!(other.read(&target, "large"), Some(noise(17 << 20, 9)));
    assert_eq!(other.read(&target, "small").as_deref(), Some(&b"small"[..]));
    let known = other.store.resolve(&id).unwrap();
    assert_eq!(known.repo_digests, std::slice::from_ref(&pushed.reference), "what is told is what is there");

    let again = fixture.store.push(&name, &target.replace(":2", ":3"), None).await.unwrap();
    assert_eq!((again.reference, again.sent), (pushed.reference, 0));
    // The other store knows the image by the registry's own name, so another repository of it mounts the blobs.
    let elsewhere = format!("{}/elsewhere:1", registry.address);
    assert_eq!(other.store.push(&id, &elsewhere, None).await.unwrap().sent, 0);
    assert_eq!(Fixture::new().pull(&elsewhere).await.unwrap(), id);
    assert!(crate::names(&fixture.dir.path().join("store/tmp")).is_empty());
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it() {
    let passwords = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(passwords.path(), PASSWORDS).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.path().display());
    let (fixture, name) = fixture(1000).await;
    let registry = DockerRegistry::start_with(&auth).await;
    let target = format!("{}/app:1", registry.address);
    let with =
        |password: &str| Some(Auth { username: "user".to_owned(), password: password.to_owned(), ..Auth::default() });
    for wrong in [None, with("wrong")] {
        let error = fixture.store.push(&name, &target, wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    }
    fixture.store.push(&name, &target, with("secret")).await.unwrap();
    let pull = PullRequest { reference: target, auth: with("secret"), ..Default::default() };
    Fixture::new().store.pull(pull).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_pushed_is_told() {
    let (fixture, name) = fixture(1000).await;
    let error = fixture.store.push(&name, "127.0.0.1:1/app:1", None).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
    let error = fixture.store.push("no/such:1", "", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let by_digest = format!("r.io/app@sha256:{}", "1".repeat(64));
    let error = fixture.store.push(&name, &by_digest, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
