//! A docker-registry behind TLS, with certificates made by `openssl` for it alone.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::free_port;
use crate::host::{Host, Spawn};

/// An authority, and what it has signed: a certificate for 127.0.0.1, of a server as of a client.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
}

/// What a registry asks of its clients.
#[derive(Debug, Default)]
pub struct Demands<'a> {
    /// A certificate of this authority (PEM).
    pub client_ca: Option<&'a Path>,
    /// A user of this htpasswd file (bcrypt).
    pub passwords: Option<&'a Path>,
}

const EXTENSIONS: &str = "[req]\ndistinguished_name = dn\n[dn]\n\
    [authority]\nbasicConstraints = critical, CA:true\nkeyUsage = critical, keyCertSign\n\
    [leaf]\nbasicConstraints = CA:false\nsubjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth, clientAuth\n";

impl Certificates {
    /// Makes them in `folder`, which is there.
    pub fn make(folder: &Path) -> io::Result<Certificates> {
        let made = Certificates { folder: folder.to_owned() };
        std::fs::write(folder.join("openssl.cnf"), EXTENSIONS)?;
        made.certificate("ca", &["-subj", "/CN=e2e authority", "-extensions", "authority"])?;
        let signed = ["-subj", "/CN=127.0.0.1", "-extensions", "leaf", "-CA", "ca.pem", "-CAkey", "ca.key"];
        made.certificate("leaf", &signed)?;
        Ok(made)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The signed certificate and its key.
    pub fn leaf(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("leaf.pem"), self.folder.join("leaf.key"))
    }

    fn certificate(&self, name: &str, more: &[&str]) -> io::Result<()> {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]);
        command.args(["-nodes", "-days", "2", "-out", &certificate, "-keyout", &key]).args(more);
        let output = command
            .current_dir(&self.folder)
            .output()
            .map_err(|e| io::Error::new(e.kind(), format!("openssl: {e}")))?;
        if output.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&output.stderr))) }
    }
}

/// Starts a registry that serves what is in `blobs`, another registry's folder, and answers its address once it listens.
pub fn serve(
    host: &Host,
    folder: &Path,
    blobs: &Path,
    own: &Certificates,
    demands: &Demands<'_>,
) -> io::Result<String> {
    let address = host.run(free_port)?;
    let (certificate, key) = own.leaf();
    let mut text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http:\n  addr: \"{address}\"\n  tls:\n    certificate: {}\n    key: {}\n",
        blobs.display(),
        certificate.display(),
        key.display()
    );
    if let Some(ca) = demands.client_ca {
        text.push_str(&format!("    clientcas: [{}]\n", ca.display()));
    }
    if let Some(passwords) = demands.passwords {
        text.push_str(&format!("auth: {{htpasswd: {{realm: e2e, path: {}}}}}\n", passwords.display()));
    }
    let config = folder.join(format!("{address}.yml"));
    let log = folder.join(format!("{address}.log"));
    std::fs::write(&config, text)?;
    let argv = vec!["docker-registry".into(), "serve".into(), config.display().to_string()];
    host.spawn(&Spawn { argv, env: vec![("OTEL_TRACES_EXPORTER".into(), "none".into())], log: log.clone() })?;
    for _ in 0..500 {
        if host.run(|| TcpStream::connect(&address)).is_ok() {
            return Ok(address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = std::fs::read_to_string(log).unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("docker-registry did not listen on {address}: {log}")))
}
