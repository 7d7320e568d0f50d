//! Pulls that succeed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth::image::{Auth, ErrorKind, Progress, PullRequest};

use crate::Fixture;
use crate::build::{Compression, INDEX, Image, digest, files, noise};
use crate::docker_registry::DockerRegistry;
use crate::server::{Answer, Server};

#[tokio::test]
async fn a_real_registry_serves_all_compressions() {
    let fixture = Fixture::new();
    let registry = DockerRegistry::start().await;
    let layers = [
        (files(&[("etc/plain", b"plain")]), Compression::None),
        (files(&[("etc/gzip", b"gzip")]), Compression::Gzip),
        (files(&[("etc/twice", &noise(300_000, 1))]), Compression::GzipTwice),
        (files(&[("etc/zstd", b"zstd")]), Compression::Zstd),
    ];
    let image = Image::new(&layers);
    let reference = registry.push("team/all", "1", &image).await;
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
    for (path, content) in
        [("etc/plain", b"plain".to_vec()), ("etc/twice", noise(300_000, 1)), ("etc/zstd", b"zstd".to_vec())]
    {
        assert_eq!(fixture.read(&reference, path), Some(content), "{path}");
    }
    let known = fixture.store.resolve(&reference).unwrap();
    assert_eq!(known.repo_tags, std::slice::from_ref(&reference));
    assert_eq!(known.repo_digests, [format!("{}/team/all@{}", registry.address, digest(&image.manifest))]);
    let sizes: usize = image.blobs.values().map(Vec::len).sum();
    assert_eq!(known.size, sizes as u64);
    for name in [image.id(), image.id()[7..].to_owned(), image.id()[7..17].to_owned(), known.repo_digests[0].clone()] {
        assert_eq!(fixture.store.resolve(&name).as_ref(), Some(&known), "{name}");
    }
    assert!(fixture.store.fs_usage().used_bytes > 300_000);
}

#[tokio::test]
async fn five_pulls_at_once_are_one_and_a_shared_layer_comes_once() {
    let fixture = Fixture::new();
    let server = Server::start();
    let base = files(&[("base", &noise(400_000, 2))]);
    let one = Image::gzip(&[base.clone(), files(&[("one", b"1")])]);
    let two = Image::gzip(&[base, files(&[("two", b"2")])]);
    let (first, second) = (server.push("one", "1", &one), server.push("two", "1", &two));
    let pulls = [&first, &first, &first, &second, &second].map(|reference| fixture.pull(reference));
    let [a, b, c, d, e] = pulls;
    let ids = tokio::join!(a, b, c, d, e);
    for id in [ids.0, ids.1, ids.2] {
        assert_eq!(id.unwrap(), one.id());
    }
    for id in [ids.3, ids.4] {
        assert_eq!(id.unwrap(), two.id());
    }
    assert_eq!(server.count(&one.layers[0]), 1, "the base is downloaded once");
    assert_eq!(server.count("manifests"), 2);
    let before = server.requests().len();
    fixture.pull(&first).await.unwrap();
    assert_eq!(server.requests().len(), before + 1, "a second pull asks for the manifest only");
}

/// Two images of two registries share a layer, and whoever came first fails for a reason of its own.
#[tokio::test]
async fn a_failed_download_is_not_the_joiners_failure() {
    for ending in ["401", "stall"] {
        let fixture = Fixture::with(|config| (config.retries, config.stall_period) = (0, Duration::from_millis(300)));
        let (ill, well) = (Server::start(), Server::start());
        let base = files(&[("base", &noise(400_000, 7))]);
        let one = Image::gzip(&[base.clone(), files(&[("one", b"1")])]);
        let two = Image::gzip(&[base, files(&[("two", b"2")])]);
        let (first, second) = (ill.push("one", "1", &one), well.push("two", "1", &two));
        let (name, blob) = (one.layers[0].clone(), one.blobs[&one.layers[0]].clone());
        let joined = Arc::new(AtomicBool::new(false));
        let waits_for = joined.clone();
        ill.hook(move |request, _| {
            if !request.path.contains(&name) {
                return None;
            }
            while ending == "401" && !waits_for.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
            }
            Some(if ending == "401" { Answer::new(401, "") } else { Answer::new(200, blob.clone()).stalling(1000) })
        });
        let joiner = async {
            while ill.count(&one.layers[0]) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let pull = fixture.pull(&second);
            let seen = async {
                // Its other layer comes at the same time as it joins.
                while well.count(&two.layers[1]) == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                joined.store(true, Ordering::Relaxed);
            };
            tokio::join!(pull, seen).0
        };
        let (failed, pulled) = tokio::join!(fixture.pull(&first), joiner);
        let kind = if ending == "401" { ErrorKind::Unauthenticated } else { ErrorKind::Unavailable };
        assert_eq!(failed.unwrap_err().kind(), kind, "{ending}");
        assert_eq!(pulled.unwrap(), two.id(), "{ending}");
        assert_eq!(well.count(&two.layers[0]), 1, "{ending}: it was joined first");
    }
}

#[tokio::test]
async fn an_index_leads_to_this_host() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", b"x")])]);
    server.push("app", "unused", &image);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": crate::build::MANIFEST, "digest": digest(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": crate::build::MANIFEST, "digest": digest(&image.manifest), "size": image.manifest.len(),
         "platform": {"os": "linux", "architecture": architecture}},
    ]}).to_string();
    server.set("/v2/app/manifests/multi", Answer::new(200, index.clone()).header("content-type", INDEX));
    let reference = format!("{}/app:multi", server.address);
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
    let known = fixture.store.resolve(&reference).unwrap();
    assert_eq!(known.repo_digests, [format!("{}/app@{}", server.address, digest(index.as_bytes()))]);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", &noise(1_000_000, 3))])]);
    let reference = server.push("app", "1", &image);
    let (name, blob) = (image.layers[0].clone(), image.blobs[&image.layers[0]].clone());
    let total = blob.len();
    server.hook(move |request, earlier| match earlier {
        0 if request.path.contains(&name) => Some(Answer::new(200, blob.clone()).breaking(total / 3)),
        1 if request.path.contains(&name) => {
            let start: usize = request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?;
            let part = Answer::new(206, blob[start..].to_vec()).breaking(total / 3);
            Some(part.header("content-range", format!("bytes {start}-{}/{total}", total - 1)))
        }
        _ => None,
    });
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
    let asked: Vec<_> = server.requests().into_iter().filter(|r| r.path.contains(&image.layers[0])).collect();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].header("range").is_none() && asked[2].header("range").is_some());
    assert_eq!(fixture.read(&reference, "x"), Some(noise(1_000_000, 3)));
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", &noise(500_000, 4))])]);
    let reference = server.push("app", "1", &image);
    let (name, blob) = (image.layers[0].clone(), image.blobs[&image.layers[0]].clone());
    server.hook(move |request, earlier| {
        let whole = Answer::new(200, blob.clone());
        request.path.contains(&name).then(|| if earlier == 0 { whole.breaking(200_000) } else { whole })
    });
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
    assert_eq!(fixture.read(&reference, "x"), Some(noise(500_000, 4)));
}

#[tokio::test]
async fn an_ill_registry_is_asked_again() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", b"x")])]);
    let reference = server.push("app", "1", &image);
    server.hook(|_, earlier| match earlier {
        0 => Some(Answer::new(503, "")),
        1 => Some(Answer::new(429, "").header("retry-after", "0")),
        _ => None,
    });
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
}

/// Wants a token for everything, and a password for the token.
fn with_token_service(server: &Server) {
    let address = server.address.clone();
    server.hook(move |request, _| {
        if request.path.starts_with("/token?") {
            // dXNlcjpzZWNyZXQ= is user:secret.
            let known = request.header("authorization") == Some("Basic dXNlcjpzZWNyZXQ=");
            let scoped = request.path.contains("service=reg") && request.path.contains("scope=repository%3Aapp%3Apull");
            return Some(if known && scoped { Answer::new(200, r#"{"token":"t0k"}"#) } else { Answer::new(401, "no") });
        }
        if request.header("authorization") == Some("Bearer t0k") {
            return None;
        }
        let challenge = format!(r#"Bearer realm="http://{address}/token",service="reg",scope="repository:app:pull""#);
        Some(Answer::new(401, "").header("www-authenticate", challenge))
    });
}

fn with_password(reference: &str, password: &str) -> PullRequest {
    let auth = Auth { username: "user".to_owned(), password: password.to_owned(), ..Auth::default() };
    PullRequest { reference: reference.to_owned(), auth: Some(auth), progress: None }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_kept() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", b"x")]), files(&[("y", b"y")])]);
    let reference = server.push("app", "1", &image);
    with_token_service(&server);
    assert_eq!(fixture.pull(&reference).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    fixture.assert_empty();
    let wrong = fixture.store.pull(with_password(&reference, "wrong")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    let before = server.count("/token?");
    fixture.store.pull(with_password(&reference, "secret")).await.unwrap();
    fixture.store.pull(with_password(&reference, "secret")).await.unwrap();
    assert_eq!(server.count("/token?"), before + 1);
}

#[tokio::test]
async fn a_password_works_as_it_is_and_from_dockers_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let fixture = Fixture::with(|config| config.docker_config = Some(file.path().to_owned()));
    let server = Server::start();
    let text = format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, server.address);
    let image = Image::gzip(&[files(&[("x", b"x")])]);
    let reference = server.push("app", "1", &image);
    server.hook(|request, _| {
        let known = request.header("authorization") == Some("Basic dXNlcjpzZWNyZXQ=");
        (!known).then(|| Answer::new(401, "").header("www-authenticate", "Basic realm=x"))
    });
    std::fs::write(file.path(), "{}").unwrap();
    assert_eq!(fixture.pull(&reference).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    std::fs::write(file.path(), text).unwrap();
    assert_eq!(fixture.pull(&reference).await.unwrap(), image.id());
    fixture.store.remove(&reference).await.unwrap();
    fixture.store.pull(with_password(&reference, "secret")).await.unwrap();
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let fixture = Fixture::new();
    let (server, elsewhere) = (Server::start(), Server::start());
    let image = Image::gzip(&[files(&[("x", b"x")])]);
    let reference = server.push("app", "1", &image);
    let name = image.layers[0].clone();
    elsewhere.set("/store", Answer::new(200, image.blobs[&name].clone()));
    let target = format!("http://{}/store", elsewhere.address);
    server.hook(move |request, _| {
        if request.header("authorization").is_none() {
            return Some(Answer::new(401, "").header("www-authenticate", "Basic realm=x"));
        }
        request.path.contains(&name).then(|| Answer::new(307, "").header("location", target.clone()))
    });
    fixture.store.pull(with_password(&reference, "secret")).await.unwrap();
    let asked = elsewhere.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_last() {
    let certs = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(|config| config.registry_dirs = vec![certs.path().to_owned()]);
    let (mirror, upstream) = (Server::start(), Server::start());
    let image = Image::gzip(&[files(&[("x", b"x")])]);
    mirror.push("app", "1", &image);
    upstream.push("app", "1", &image);
    upstream.push("app", "2", &image);
    std::fs::create_dir(certs.path().join("registry.example")).unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", upstream.address, mirror.address);
    std::fs::write(certs.path().join("registry.example/hosts.toml"), text).unwrap();
    assert_eq!(fixture.pull("registry.example/app:1").await.unwrap(), image.id());
    assert!(upstream.requests().is_empty());
    assert!(mirror.requests().iter().all(|request| request.path.ends_with("?ns=registry.example")));
    assert_eq!(fixture.pull("registry.example/app:2").await.unwrap(), image.id());
    assert_eq!(upstream.count("manifests/2"), 1);
    assert_eq!(fixture.store.resolve(&image.id()).unwrap().repo_tags.len(), 2);
}

#[tokio::test]
async fn progress_tells_layers_bytes_and_ends() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", &noise(2_000_000, 5))])]);
    let reference = server.push("app", "1", &image);
    let (sender, mut events) = tokio::sync::mpsc::channel(100);
    fixture.store.pull(PullRequest { reference, auth: None, progress: Some(sender) }).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    assert!(matches!(&seen[0], Progress::Layers(layers) if layers.len() == 1 && !layers[0].present));
    let total = image.blobs[&image.layers[0]].len() as u64;
    assert!(seen.iter().any(|event| matches!(event, Progress::Received { bytes, .. } if *bytes == total)));
    assert!(matches!(seen.last(), Some(Progress::Unpacked { .. })));
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_leaves_nothing() {
    let fixture = Fixture::with(|config| config.stall_period = Duration::from_secs(60));
    let server = Server::start();
    let image = Image::gzip(&[files(&[("x", b"whole")]), files(&[("y", &noise(3_000_000, 6))])]);
    let reference = server.push("app", "1", &image);
    let (name, blob) = (image.layers[1].clone(), image.blobs[&image.layers[1]].clone());
    server.hook(move |request, _| {
        request.path.contains(&name).then(|| Answer::new(200, blob.clone()).stalling(2_000_000))
    });
    let pull = tokio::time::timeout(Duration::from_millis(700), fixture.pull(&reference));
    assert!(pull.await.is_err(), "the deadline passes first");
    tokio::time::sleep(Duration::from_millis(100)).await;
    fixture.assert_empty();
}
