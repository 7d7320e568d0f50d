//! Registries to pull from: Debian's `docker-registry`, a server that others wrote, and one that answers badly.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use crate::host::{Host, Spawn};
use crate::image::{Blob, Image};

/// A registry that stalls, lies or floods.
pub mod hostile;
/// As much HTTP/1.1 as pushing to a registry takes.
pub mod http;
/// A registry behind TLS.
pub mod tls;

/// A running docker-registry on a port of its own, with its folder below the test's.
#[derive(Clone, Debug)]
pub struct Registry {
    /// `127.0.0.1:port`, as it stands in image references.
    pub address: String,
    host: i32,
}

impl Registry {
    /// Starts one inside `host` with everything of its below `folder`, and waits until it answers.
    pub fn start(host: &Host, folder: &Path) -> io::Result<Registry> {
        Registry::start_in(host, folder, &folder.join("registry"))
    }

    /// The same with its blobs in a folder that outlives it.
    pub fn start_in(host: &Host, folder: &Path, blobs: &Path) -> io::Result<Registry> {
        let address = host.run(free_port)?;
        let registry = Registry { address: address.clone(), host: host.pid() };
        let config = folder.join(format!("{address}.yml"));
        let log = folder.join(format!("{address}.log"));
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, delete: {{enabled: true}}}}\n",
            blobs.display()
        );
        std::fs::write(&config, text)?;
        let argv = vec!["docker-registry".into(), "serve".into(), config.display().to_string()];
        host.spawn(&Spawn { argv, env: vec![("OTEL_TRACES_EXPORTER".into(), "none".into())], log: log.clone() })
            .map_err(|e| io::Error::new(e.kind(), format!("{e}; install Debian's docker-registry")))?;
        for _ in 0..500 {
            if registry.call("GET", "/v2/", "", &[]).is_ok_and(|response| response.status == 200) {
                return Ok(registry);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let log = std::fs::read_to_string(log).unwrap_or_default();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("docker-registry did not answer on {address}: {log}")))
    }

    /// Pushes an image and answers its reference, `127.0.0.1:port/name:tag`.
    pub fn push(&self, name: &str, tag: &str, image: &Image) -> io::Result<String> {
        for Blob { bytes, digest, .. } in &image.layers {
            self.push_blob(name, digest, bytes)?;
        }
        self.push_blob(name, &image.id(), &image.config)?;
        self.push_manifest(name, tag, image.format.manifest(), &image.manifest)?;
        Ok(format!("{}/{name}:{tag}", self.address))
    }

    /// Uploads one blob, unless it is there (distribution-spec, "pushing a blob monolithically").
    pub fn push_blob(&self, name: &str, digest: &str, bytes: &[u8]) -> io::Result<()> {
        if self.call("HEAD", &format!("/v2/{name}/blobs/{digest}"), "", &[])?.status == 200 {
            return Ok(());
        }
        let opened = self.call("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[])?.expect(202)?;
        let location = opened.header("location").ok_or_else(|| io::Error::other("an upload without a Location"))?;
        let path = location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        let joint = if path.contains('?') { '&' } else { '?' };
        self.call("PUT", &format!("{path}{joint}digest={digest}"), "application/octet-stream", bytes)?.expect(201)?;
        Ok(())
    }

    /// Uploads a manifest or index under a tag or digest.
    pub fn push_manifest(&self, name: &str, tag: &str, media_type: &str, manifest: &[u8]) -> io::Result<()> {
        self.call("PUT", &format!("/v2/{name}/manifests/{tag}"), media_type, manifest)?.expect(201)?;
        Ok(())
    }

    /// Whether a manifest is there.
    pub fn has(&self, name: &str, tag: &str) -> io::Result<bool> {
        Ok(self.call("HEAD", &format!("/v2/{name}/manifests/{tag}"), "", &[])?.status == 200)
    }

    fn call(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> io::Result<http::Response> {
        crate::host::run_inside(self.host, || http::call(&self.address, method, path, media_type, body))
    }
}

/// An address of the loopback on which nothing listens now.
pub fn free_port() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
