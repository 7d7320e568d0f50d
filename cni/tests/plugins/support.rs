//! A host, its pods, and calls of plugins: ours as a program, ours in this process, and Debian's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cni::call::{Call, RunError, Runner};
use cni::client::Exec;
use cni::netns::Netns;
use cni::plugins::{InProcess, NAMES};
use cni::types::{CniError, Code, Command};
use serde_json::{Value, json};

/// Set inside: the file that says that the test was run to its end.
const INSIDE: &str = "CNI_TEST_INSIDE";

/// Runs a test in a host of its own; `name` is its path.
pub(crate) fn in_own_host(name: &str, test: impl FnOnce(Host)) {
    if let Some(ran) = std::env::var_os(INSIDE) {
        test(Host::new());
        fs::write(ran, name).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let status = Process::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &ran)
        .status()
        .expect("unshare (util-linux)");
    assert!(status.success(), "{name} failed in its own host");
    // A name that is none runs nothing, successfully.
    assert!(fs::read(ran).is_ok_and(|text| text == name.as_bytes()), "{name} was not run");
}

/// The name of the test it stands in, for [`in_own_host`].
macro_rules! own_host {
    ($name:ident, $test:expr) => {{
        let module = module_path!().split_once("::").map_or("", |(_, module)| module);
        crate::support::in_own_host(&format!("{module}::{}", stringify!($name)), $test);
    }};
}
pub(crate) use own_host;

pub(crate) struct Host {
    folder: tempfile::TempDir,
}

/// Whose plugin, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `berth-cni` as a program.
    Exec,
    /// This crate, by call.
    Call,
    /// The reference plugins.
    Debian,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in NAMES {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_berth-cni"), bin.join(name)).unwrap();
        }
        ip("link set lo up");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    pub(crate) fn run(&self, by: By, command: Command, pod: Option<&Pod>, config: &Value) -> Result<String, CniError> {
        let (container, netns) = pod.map(|pod| (pod.id.clone(), pod.path())).unwrap_or_default();
        let path = match by {
            By::Debian => vec!["/usr/lib/cni".into()],
            By::Exec | By::Call => vec![self.bin()],
        };
        let call = Call {
            command,
            container,
            netns,
            interface: if pod.is_some() { "eth0".into() } else { String::new() },
            args: String::new(),
            path: path.clone(),
            input: config.to_string().into_bytes(),
            deadline: Instant::now() + Duration::from_secs(60),
        };
        let plugin = config["type"].as_str().unwrap();
        let output = match by {
            // Nothing may be exec'd.
            By::Call => InProcess::new(Exec::new(vec![])).run(plugin, &call),
            By::Exec | By::Debian => Exec::new(path).run(plugin, &call),
        };
        match output {
            Ok(output) => Ok(String::from_utf8(output).unwrap()),
            Err(RunError::Failed { error, .. }) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn add(&self, by: By, pod: &Pod, config: &Value) -> Value {
        serde_json::from_str(&self.add_text(by, pod, config)).unwrap()
    }

    pub(crate) fn add_text(&self, by: By, pod: &Pod, config: &Value) -> String {
        self.run(by, Command::Add, Some(pod), config).unwrap_or_else(|error| panic!("{by:?}: ADD: {error}"))
    }

    pub(crate) fn del(&self, by: By, pod: &Pod, config: &Value) {
        let output = self.run(by, Command::Del, Some(pod), config);
        assert_eq!(output.unwrap_or_else(|error| panic!("{by:?}: DEL: {error}")), "");
    }

    pub(crate) fn check(&self, by: By, pod: &Pod, config: &Value, result: &Value) -> Result<(), CniError> {
        let config = with(config, json!({ "prevResult": result }));
        self.run(by, Command::Check, Some(pod), &config).map(drop)
    }

    pub(crate) fn gc(&self, config: &Value, living: &[&Pod]) {
        let living: Vec<_> = living.iter().map(|pod| json!({"containerID": pod.id, "ifname": "eth0"})).collect();
        let config = with(config, json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": living}));
        self.run(By::Exec, Command::Gc, None, &config).unwrap();
    }

    pub(crate) fn pod(&self, id: &str) -> Pod {
        Pod::new(id)
    }

    /// A host-local section, IPv4 and IPv6, and default routes.
    pub(crate) fn ipam(&self) -> Value {
        json!({"type": "host-local", "dataDir": self.path("leases"),
            "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
    }

    /// The leased addresses of a network.
    pub(crate) fn leases(&self, network: &str) -> BTreeMap<String, String> {
        let Ok(listing) = fs::read_dir(self.path("leases").join(network)) else { return BTreeMap::new() };
        let files = listing.map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files
            .filter(|path| name(path).parse::<IpAddr>().is_ok())
            .map(|path| (name(&path), fs::read_to_string(&path).unwrap()))
            .collect()
    }

    /// The links of the host but for `lo`.
    pub(crate) fn links(&self) -> Vec<String> {
        names_of(&ip("-o link"))
    }

    /// All elements in nftables.
    pub(crate) fn elements(&self) -> String {
        let listing = run("nft", &["list", "ruleset"]);
        listing.lines().filter(|line| line.contains("elements")).collect()
    }

    /// Another machine: 192.0.2.2 and 2001:db8::2, reached by 192.0.2.1 and 2001:db8::1.
    pub(crate) fn outside(&self) -> Pod {
        let outside = Pod::new("outside");
        ip(&format!("link add up0 type veth peer name eth0 netns {}", outside.tid()));
        ip("address add 192.0.2.1/24 dev up0");
        ip("address add 2001:db8::1/64 dev up0 nodad");
        ip("link set up0 up");
        outside.enter(|| {
            ip("address add 192.0.2.2/24 dev eth0");
            ip("address add 2001:db8::2/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        outside
    }
}

/// A network namespace, held by a thread.
pub(crate) struct Pod {
    pub(crate) id: String,
    tid: i32,
    release: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pod {
    fn new(id: &str) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = released.recv();
        });
        Self { id: id.into(), tid: is_ready.recv().unwrap(), release: Some(release), thread: Some(thread) }
    }

    fn tid(&self) -> i32 {
        self.tid
    }

    pub(crate) fn path(&self) -> String {
        match self.release {
            Some(_) => format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid),
            None => "/run/netns/gone".into(),
        }
    }

    /// Its namespace is let go; a path that leads nowhere is what remains.
    pub(crate) fn die(&mut self) {
        self.release = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = Netns::open(self.path()).unwrap();
        assert!(netns.as_fd().try_clone_to_owned().is_ok());
        netns.enter(work).unwrap()
    }

    pub(crate) fn links(&self) -> Vec<String> {
        self.enter(|| names_of(&ip("-o link")))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.die();
    }
}

fn names_of(listing: &str) -> Vec<String> {
    let name = |line: &str| line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned());
    listing.lines().filter_map(name).filter(|name| name != "lo").collect()
}

/// `with(a, b)`: the object a with what b has.
pub(crate) fn with(base: &Value, more: Value) -> Value {
    let mut base = base.clone();
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

/// Waits until no address of the calling thread's namespace is looked for elsewhere any more (RFC 4862): a router asks for nobody's
/// neighbours before.
pub(crate) fn wait_for_addresses() {
    wait_until("no address is tentative", || !ip("-o address").contains("tentative"));
}

/// Waits for what the kernel does in its own time.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    // Administrators' programs are not in everybody's path.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Process::new(program).args(arguments).env("PATH", path).output().expect(program);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What differs from run to run: Ethernet addresses, the names of hosts' ends, namespaces.
pub(crate) fn normal(text: &str, pod: &Pod) -> String {
    let mut out = text.replace(&pod.path(), "NETNS");
    for key in ["\"mac\": \"", "\"name\": \"veth"] {
        let mut rest = std::mem::take(&mut out);
        while let Some(at) = rest.find(key) {
            let end = at + key.len() + rest[at + key.len()..].find('"').unwrap();
            out.push_str(&rest[..at + key.len()]);
            out.push('*');
            rest = rest.split_off(end);
        }
        out.push_str(&rest);
    }
    out
}

/// A server that tells every client who it is, on a port of its own, for as long as the test lasts. Runs in the caller's
/// namespace.
pub(crate) fn serve(address: IpAddr) -> SocketAddr {
    serve_at(SocketAddr::new(address, 0))
}

/// The same at an address and port; one of IPv6 serves IPv4 too where nobody else does.
pub(crate) fn serve_at(address: SocketAddr) -> SocketAddr {
    let tcp = TcpListener::bind(address).unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, peer)) = tcp.accept() {
            let _ = client.write_all(peer.ip().to_string().as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
    address
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Whom the server sees, over TCP.
pub(crate) fn seen_as(server: SocketAddr) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

pub(crate) fn code(outcome: Result<String, CniError>) -> Option<Code> {
    outcome.err().map(|error| error.code)
}
