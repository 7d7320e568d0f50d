//! Where a registry is reached: `certs.d/<host>/hosts.toml` as containerd reads it (docs/hosts.md there), or the defaults.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::image::error::ImageError;

/// One server that may be asked for a registry's content, in the order they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The address that `/<repository>/manifests/…` is appended to: mostly `https://host/v2`.
    pub(crate) base: Url,
    /// A mirror is told which registry it stands for (`?ns=`).
    pub(crate) is_mirror: bool,
    /// May turn a tag into a digest.
    pub(crate) resolve: bool,
    /// May serve content by digest.
    pub(crate) pull: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) tls: TlsFiles,
    pub(crate) connect_timeout: Option<Duration>,
}

impl Endpoint {
    /// Host and port as a user would write them.
    pub(crate) fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// TLS as the operator wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct TlsFiles {
    /// PEM files that are trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key; the key may be in the certificate's file.
    pub(crate) client: Option<(PathBuf, Option<PathBuf>)>,
    pub(crate) skip_verify: bool,
}

#[derive(Deserialize, Default)]
struct HostsFile {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: HashMap<Spanned<String>, HostEntry>,
    #[serde(flatten)]
    root: HostEntry,
}

#[derive(Deserialize, Default)]
struct HostEntry {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: HashMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    /// One file with both, or a list whose first counts.
    Files(OneOrMany),
    /// `[["cert", "key"]]`.
    Pairs(Vec<Vec<String>>),
}

/// The endpoints of `registry`, by the first folder that knows it. Blocks on small local files.
pub(crate) fn endpoints(dirs: &[PathBuf], registry: &str) -> Result<Vec<Endpoint>, ImageError> {
    for dir in dirs.iter().flat_map(|root| candidates(root, registry)) {
        let path = dir.join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return parse(&text, &dir, registry).map_err(|reason| ImageError::BadConfiguration { path, reason });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(ImageError::io("read", &path, e)),
        }
        if dir.is_dir() {
            // Docker's older layout: certificates without a word about hosts.
            let mut endpoint = upstream(registry)?;
            endpoint.tls = docker_certificates(&dir)?;
            return Ok(vec![endpoint]);
        }
    }
    Ok(vec![upstream(registry)?])
}

/// `host_port_` exists because some file systems have no colons.
pub(super) fn candidates(root: &Path, registry: &str) -> Vec<PathBuf> {
    let with_port = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let escaped = with_port.map(|(host, port)| format!("{host}_{port}_"));
    escaped.iter().map(String::as_str).chain([registry, "_default"]).map(|name| root.join(name)).collect()
}

/// `*.crt` are authorities; `*.cert` with `*.key` is the client's (docs.docker.com, "Verify repository client").
fn docker_certificates(dir: &Path) -> Result<TlsFiles, ImageError> {
    let mut tls = TlsFiles::default();
    let entries = std::fs::read_dir(dir).map_err(|e| ImageError::io("list", dir, e))?;
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.client = Some((path, Some(key)));
            }
            _ => {}
        }
    }
    tls.ca.sort();
    Ok(tls)
}

/// The registry itself: https, but http on this machine, as every runtime has it.
pub(super) fn upstream(registry: &str) -> Result<Endpoint, ImageError> {
    let scheme = if is_local(registry) { "http" } else { "https" };
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let base = Url::parse(&format!("{scheme}://{host}/v2"));
    let base = base.map_err(|_| ImageError::InvalidReference {
        reference: registry.to_owned(),
        reason: "its registry is no host",
    })?;
    Ok(Endpoint {
        base,
        is_mirror: false,
        resolve: true,
        pull: true,
        headers: HeaderMap::new(),
        tls: TlsFiles::default(),
        connect_timeout: None,
    })
}

fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads `hosts.toml`: its hosts in the file's order, then its server, or the registry itself.
pub(super) fn parse(text: &str, dir: &Path, registry: &str) -> Result<Vec<Endpoint>, String> {
    let file: HostsFile = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(address, _)| address.span().start);
    let mut endpoints = Vec::new();
    for (address, entry) in hosts {
        let address = address.into_inner();
        endpoints
            .push(endpoint(&address, entry, dir, registry).map_err(|reason| format!("host {address:?}: {reason}"))?);
    }
    let last = if file.server.is_empty() {
        let plain = upstream(registry).map_err(|e| e.to_string())?;
        configured(plain, file.root, dir)?
    } else {
        endpoint(&file.server, file.root, dir, registry)
            .map_err(|reason| format!("server {:?}: {reason}", file.server))?
    };
    // Many name the server among the hosts, too, with its certificates only there: it is asked once, as it is told there.
    if !endpoints.iter().any(|host| host.base == last.base && host.resolve && host.pull) {
        endpoints.push(last);
    }
    Ok(endpoints)
}

fn endpoint(address: &str, entry: HostEntry, dir: &Path, registry: &str) -> Result<Endpoint, String> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let mut base = Url::parse(&with_scheme).map_err(|e| e.to_string())?;
    if !["http", "https"].contains(&base.scheme()) || base.host_str().is_none() {
        return Err("it is not an http or https address".to_owned());
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = if entry.override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    base.set_path(&path);
    let own = upstream(registry).map_err(|e| e.to_string())?;
    let is_mirror =
        base.host_str() != own.base.host_str() || base.port_or_known_default() != own.base.port_or_known_default();
    configured(Endpoint { base, is_mirror, ..own }, entry, dir)
}

fn configured(mut endpoint: Endpoint, entry: HostEntry, dir: &Path) -> Result<Endpoint, String> {
    if !entry.capabilities.is_empty() {
        if let Some(unknown) = entry.capabilities.iter().find(|c| !["pull", "resolve", "push"].contains(&c.as_str())) {
            return Err(format!("unknown capability {unknown:?}"));
        }
        endpoint.resolve = entry.capabilities.iter().any(|c| c == "resolve");
        endpoint.pull = entry.capabilities.iter().any(|c| c == "pull");
    }
    for (name, values) in entry.header {
        let name: HeaderName = name.parse().map_err(|_| format!("header {name:?} is not a header's name"))?;
        for value in values.into_vec() {
            let value = HeaderValue::from_str(&value).map_err(|_| format!("header {name}: not a header's value"))?;
            endpoint.headers.append(name.clone(), value);
        }
    }
    endpoint.tls.skip_verify = entry.skip_verify;
    endpoint.tls.ca = entry.ca.map(OneOrMany::into_vec).unwrap_or_default().iter().map(|file| dir.join(file)).collect();
    endpoint.tls.client = match entry.client {
        None => None,
        Some(Client::Files(files)) => files.into_vec().first().map(|file| (dir.join(file), None)),
        Some(Client::Pairs(pairs)) => match pairs.first().map(Vec::as_slice) {
            Some([certificate]) => Some((dir.join(certificate), None)),
            Some([certificate, key]) => Some((dir.join(certificate), Some(dir.join(key)).filter(|_| !key.is_empty()))),
            _ => return Err("client: expected [[\"certificate\", \"key\"]]".to_owned()),
        },
    };
    endpoint.connect_timeout = entry.dial_timeout.as_deref().map(duration).transpose()?;
    Ok(endpoint)
}

/// Go's notation, as far as a timeout needs it: `500ms`, `3s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * seconds));
    parsed
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("dial_timeout {text:?} is not a duration like \"3s\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|e| e.base.as_str()).collect()
    }

    fn read(text: &str, registry: &str) -> Vec<Endpoint> {
        parse(text, Path::new("/etc/certs.d/x"), registry).unwrap()
    }

    #[test]
    fn without_a_file_it_is_https_but_http_on_this_machine() {
        let base = |registry: &str| endpoints(&[], registry).unwrap()[0].base.to_string();
        assert_eq!(base("docker.io"), "https://registry-1.docker.io/v2");
        assert_eq!(base("r.io:5000"), "https://r.io:5000/v2");
        assert_eq!(base("localhost:5000"), "http://localhost:5000/v2");
        assert_eq!(base("127.0.0.1:5000"), "http://127.0.0.1:5000/v2");
        assert_eq!(base("[::1]:5000"), "http://[::1]:5000/v2");
        assert_eq!(base("10.0.0.1:5000"), "https://10.0.0.1:5000/v2");
    }

    #[test]
    fn mirrors_keep_the_order_of_the_file_and_the_server_is_last() {
        let endpoints = read(
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z-mirror.example"]
              capabilities = ["pull"]
              ca = "z.pem"
              [host."https://z-mirror.example".header]
                x-custom = ["a", "b"]
            [host."http://a-mirror.example:5000/prefix"]
              skip_verify = true
            [host."https://harbor.example/v2/proxy"]
              override_path = true
              client = [["c.pem", "k.pem"]]
              dial_timeout = "500ms"
            "#,
            "docker.io",
        );
        assert_eq!(
            bases(&endpoints),
            [
                "https://z-mirror.example/v2",
                "http://a-mirror.example:5000/prefix/v2",
                "https://harbor.example/v2/proxy",
                "https://registry-1.docker.io/v2",
            ]
        );
        let mirrors: Vec<_> = endpoints.iter().map(|e| (e.is_mirror, e.resolve, e.pull)).collect();
        assert_eq!(mirrors, [(true, false, true), (true, true, true), (true, true, true), (false, true, true)]);
        assert_eq!(endpoints[0].tls.ca, [PathBuf::from("/etc/certs.d/x/z.pem")]);
        assert_eq!(endpoints[0].headers.get_all("x-custom").iter().count(), 2);
        assert!(endpoints[1].tls.skip_verify);
        let key = PathBuf::from("/etc/certs.d/x/k.pem");
        assert_eq!(endpoints[2].tls.client, Some((PathBuf::from("/etc/certs.d/x/c.pem"), Some(key))));
        assert_eq!(endpoints[2].connect_timeout, Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_server_that_is_among_the_hosts_is_asked_once() {
        let file = |capabilities: &str| {
            format!("server = \"https://r.io\"\n[host.\"https://r.io\"]\ncapabilities = {capabilities}\nca = \"r.pem\"")
        };
        let endpoints = read(&file(r#"["pull", "resolve"]"#), "r.io");
        assert_eq!(bases(&endpoints), ["https://r.io/v2"]);
        assert!(!endpoints[0].is_mirror && endpoints[0].tls.ca.len() == 1);
        assert_eq!(bases(&read(&file(r#"["pull"]"#), "r.io")), ["https://r.io/v2"; 2], "tags are asked of the server");
    }

    #[test]
    fn settings_at_the_top_are_the_servers() {
        let endpoints = read("skip_verify = true\nca = [\"/a.pem\", \"b.pem\"]", "r.io");
        assert_eq!(bases(&endpoints), ["https://r.io/v2"]);
        assert!(endpoints[0].tls.skip_verify && !endpoints[0].is_mirror);
        assert_eq!(endpoints[0].tls.ca, [PathBuf::from("/a.pem"), PathBuf::from("/etc/certs.d/x/b.pem")]);
        assert_eq!(bases(&read("server = \"http://other:80\"", "r.io")), ["http://other/v2"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = |text: &str| parse(text, Path::new("/x"), "r.io").unwrap_err();
        assert!(error("[host.\"https://m\"]\ncapabilities = [\"fetch\"]").contains("unknown capability \"fetch\""));
        assert!(error("[host.\"ftp://m\"]").contains("not an http or https"));
        assert!(error("server = ").contains("line 1") || error("server = ").contains("1"));
        assert!(error("[host.\"https://m\"]\ndial_timeout = \"soon\"").contains("soon"));
    }

    #[test]
    fn folders_are_tried_from_the_narrowest_to_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, server: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), format!("server = \"{server}\"")).unwrap();
        };
        make("_default", "https://default");
        make("r.io:5000", "https://colon");
        let dirs = [dir.path().to_owned()];
        assert_eq!(bases(&endpoints(&dirs, "other.io").unwrap()), ["https://default/v2"]);
        assert_eq!(bases(&endpoints(&dirs, "r.io:5000").unwrap()), ["https://colon/v2"]);
        make("r.io_5000_", "https://underscore");
        assert_eq!(bases(&endpoints(&dirs, "r.io:5000").unwrap()), ["https://underscore/v2"]);
        std::fs::create_dir(dir.path().join("docker.example")).unwrap();
        std::fs::write(dir.path().join("docker.example/own.crt"), "").unwrap();
        assert_eq!(endpoints(&dirs, "docker.example").unwrap()[0].tls.ca.len(), 1);
    }
}
