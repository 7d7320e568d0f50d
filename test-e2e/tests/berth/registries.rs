//! Registries behind TLS and passwords: Debian's docker-registry, and `hosts.toml` as containerd's users write it.

use std::path::Path;
use std::time::Duration;

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::registry::tls::{Certificates, Demands, serve};
use tonic::Code;

/// `user` and `secret`, by bcrypt.
const PASSWORDS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// An image that only `name` has, in the plain registry, whose folder the others serve.
fn pushed(e2e: &Fixture, name: &str) -> String {
    let mut layer = Layer::new();
    layer.file("which", name.as_bytes(), 0o644).expect("file");
    let layer = layer.finish(Compression::Gzip).expect("layer");
    let built = image::ImageBuilder::new(Format::Oci).layer(layer).build();
    e2e.registry().push(&format!("e2e/{name}"), "1", &built).expect("push");
    built.id()
}

fn started(e2e: &Fixture, own: &Certificates, demands: &Demands<'_>) -> String {
    let folder = &e2e.machine.folder;
    serve(&e2e.machine.host, folder, &folder.join("registry"), own, demands).expect("a registry with TLS")
}

/// Writes the registry's hosts.toml with these settings, and the server beside its host as the documentation has it.
fn configure(e2e: &Fixture, address: &str, settings: &str) {
    let folder = e2e.machine.folder.join("certs.d").join(address);
    std::fs::create_dir_all(&folder).expect("certs.d");
    let text = format!(
        "server = \"https://{address}\"\n\n[host.\"https://{address}\"]\n  \
         capabilities = [\"pull\", \"resolve\", \"push\"]\n  {settings}\n"
    );
    std::fs::write(folder.join("hosts.toml"), text).expect("hosts.toml");
}

fn copy(from: &Path, e2e: &Fixture, address: &str, name: &str) {
    std::fs::copy(from, e2e.machine.folder.join("certs.d").join(address).join(name)).expect("copy");
}

#[tokio::test]
async fn a_certificate_counts_by_the_authority_that_hosts_toml_names() {
    let e2e = Fixture::shared().await;
    let id = pushed(&e2e, "tls");
    let certificates = Certificates::make(&e2e.folder("tls")).expect("certificates");
    let address = started(&e2e, &certificates, &Demands::default());
    let reference = format!("{address}/e2e/tls:1");

    configure(&e2e, &address, "");
    let unknown = e2e.client.pull(&reference).await.expect_err("nobody here knows its authority");
    assert_eq!(unknown.code(), Code::Unknown);
    for part in [&*address, "UnknownIssuer", "`ca` in its hosts.toml"] {
        assert!(unknown.message().contains(part), "{part}: {unknown:?}");
    }
    let stranger = Certificates::make(&e2e.folder("stranger")).expect("certificates");
    configure(&e2e, &address, &format!("ca = {:?}", stranger.ca()));
    let other = e2e.client.pull(&reference).await.expect_err("another authority did not sign it");
    assert!(other.message().contains("invalid peer certificate"), "{other:?}");

    configure(&e2e, &address, "ca = \"ca.pem\"");
    let missing = e2e.client.pull(&reference).await.expect_err("the file is not there yet");
    assert!(missing.message().contains("ca.pem"), "{missing:?}");
    copy(&certificates.ca(), &e2e, &address, "ca.pem");
    assert_eq!(e2e.client.pull(&reference).await.expect("a file beside hosts.toml"), id);
    let none = e2e.client.pull(&reference.replace(":1", ":none")).await.expect_err("there is no such tag");
    assert_eq!(none.code(), Code::NotFound, "{none:?}");
    e2e.client.remove_image(&id).await.expect("remove");
    configure(&e2e, &address, "skip_verify = true");
    assert_eq!(e2e.client.pull(&reference).await.expect("unverified, as asked for"), id);
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_the_registry_wants_one() {
    let e2e = Fixture::shared().await;
    let id = pushed(&e2e, "mutual");
    let certificates = Certificates::make(&e2e.folder("mutual")).expect("certificates");
    let ca = certificates.ca();
    let address = started(&e2e, &certificates, &Demands { client_ca: Some(&ca), passwords: None });
    let reference = format!("{address}/e2e/mutual:1");

    configure(&e2e, &address, &format!("ca = {ca:?}"));
    let refused = e2e.client.pull(&reference).await.expect_err("without a certificate");
    assert_eq!(refused.code(), Code::Unknown);
    assert!(refused.message().contains("`client` in its hosts.toml"), "{refused:?}");

    let (certificate, key) = certificates.leaf();
    copy(&certificate, &e2e, &address, "client.pem");
    copy(&key, &e2e, &address, "client.key");
    configure(&e2e, &address, &format!("ca = {ca:?}\n  client = [[\"client.pem\", \"client.key\"]]"));
    assert_eq!(e2e.client.pull(&reference).await.expect("with it"), id);
}

#[tokio::test]
async fn a_password_goes_over_tls_in_both_directions() {
    let e2e = Fixture::shared().await;
    let id = pushed(&e2e, "password");
    let folder = e2e.folder("password");
    let certificates = Certificates::make(&folder).expect("certificates");
    let passwords = folder.join("htpasswd");
    std::fs::write(&passwords, PASSWORDS).expect("htpasswd");
    let address = started(&e2e, &certificates, &Demands { client_ca: None, passwords: Some(&passwords) });
    configure(&e2e, &address, &format!("ca = {:?}", certificates.ca()));
    let reference = format!("{address}/e2e/password:1");
    let pull = async |password: &str| {
        let (username, password) = ("user".to_owned(), password.to_owned());
        let auth = v1::AuthConfig { username, password, ..Default::default() };
        e2e.client.pull_as(&reference, Some(auth), Duration::from_secs(60)).await
    };
    let anonymous = e2e.client.pull(&reference).await.expect_err("without a password");
    assert_eq!(anonymous.code(), Code::Unauthenticated, "{anonymous:?}");
    let wrong = pull("wrong").await.expect_err("with a wrong one");
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong:?}");
    assert_eq!(pull("secret").await.expect("with the right one"), id);

    let target = format!("{address}/e2e/password:2");
    let push = |password| e2e.agent().image_as(password, &["push", &id, &target, "--username", "user"]);
    let refused = push("wrong").expect_err("push with a wrong password").to_string();
    assert!(refused.contains(&address), "{refused}");
    assert!(!e2e.registry().has("e2e/password", "2").expect("look"));
    push("secret").expect("push");
    assert!(e2e.registry().has("e2e/password", "2").expect("look"));
}
