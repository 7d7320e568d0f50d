//! Debian's docker-registry, a server that we did not write, on a free port with a folder of its own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::build::{Image, MANIFEST};

pub(crate) struct DockerRegistry {
    pub(crate) address: String,
    process: Child,
    _dir: TempDir,
}

impl DockerRegistry {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more lines of configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("the package docker-registry");
        let registry = Self { address, process, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while reqwest::get(format!("http://{}/v2/", registry.address)).await.is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    pub(crate) async fn push(&self, name: &str, tag: &str, image: &Image) -> String {
        let http = reqwest::Client::new();
        let base = format!("http://{}/v2/{name}", self.address);
        for (digest, blob) in &image.blobs {
            let begun = http.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
            let location = begun.headers()["location"].to_str().unwrap().to_owned();
            let mut url: reqwest::Url = location.parse().unwrap();
            url.query_pairs_mut().append_pair("digest", digest);
            let put = http.put(url).body(blob.clone()).send().await.unwrap();
            assert_eq!(put.status(), 201);
        }
        let put = http.put(format!("{base}/manifests/{tag}")).header("content-type", MANIFEST);
        let put = put.body(image.manifest.clone()).send().await.unwrap();
        assert_eq!(put.status(), 201, "{:?}", put.text().await);
        format!("{}/{name}:{tag}", self.address)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
