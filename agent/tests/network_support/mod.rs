//! A host of its own for each test, and pods as threads that stay in a network namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth::model::PodId;
use berth::network::{Attachment, NetworkConfig, NetworkError, PodNetwork, pod_sysctls};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Names, in the child that runs a test's body, the file to prove it in.
const MARK: &str = "BERTH_NETWORK_TEST_HOST";
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test's body in a child process of its own network and mount namespaces.
pub(crate) fn in_own_host<F: Future<Output = ()>>(name: &str, body: impl FnOnce(TestHost) -> F) {
    if let Some(proof) = std::env::var_os(MARK) {
        fs::write(proof, "ran").unwrap();
        ip("link set lo up");
        let host = TestHost { folder: tempfile::tempdir().unwrap() };
        run(&format!("mount -t tmpfs network-test {}", host.folder.path().display()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(body(host));
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let proof = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture"])
        .env(MARK, proof.path())
        .status()
        .unwrap();
    assert!(status.success(), "see the output above");
    assert_eq!(fs::read(proof.path()).unwrap(), b"ran", "no test is called {name}");
}

/// The child's own network namespace, playing the node.
pub(crate) struct TestHost {
    folder: tempfile::TempDir,
}

impl TestHost {
    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig::new(self.folder.path().join("run"), self.folder.path().join("state"))
    }

    pub(crate) async fn open(&self) -> Arc<PodNetwork> {
        PodNetwork::open(self.config()).await.unwrap()
    }

    /// The same where pods are kept apart.
    pub(crate) async fn open_apart(&self) -> Arc<PodNetwork> {
        PodNetwork::open(NetworkConfig { icc: false, ..self.config() }).await.unwrap()
    }

    /// A pod that is kept apart from others.
    pub(crate) fn pod_apart(&self) -> Namespace {
        let pod = self.pod();
        pod.run(|| pod_sysctls(false).for_each(set_sysctl));
        pod
    }

    pub(crate) fn pod(&self) -> Namespace {
        self.pod_of(PodId::random().unwrap())
    }

    pub(crate) fn pod_of(&self, id: PodId) -> Namespace {
        Namespace::new(id)
    }

    /// Another machine behind a cable: 192.0.2.1 and 2001:db8::1 here, .2 and ::2 there. It has no route to any pod.
    pub(crate) fn uplink(&self) -> Namespace {
        let outside = self.pod();
        let path = outside.run(|| format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()));
        ip("link add uplink type veth peer name cable");
        // `ip link set netns` takes a pid, a name, or a path below /run/netns.
        nsenter_move("cable", &path);
        ip("address add 192.0.2.1/24 dev uplink");
        ip("-6 address add 2001:db8::1/64 dev uplink nodad");
        ip("link set uplink up");
        outside.run(|| {
            ip("link set lo up");
            ip("address add 192.0.2.2/24 dev cable");
            ip("-6 address add 2001:db8::2/64 dev cable nodad");
            ip("link set cable up");
        });
        outside
    }

    pub(crate) fn netlink(&self) -> OwnedFd {
        netlink_socket()
    }

    pub(crate) fn ping(&self, address: IpAddr) {
        ping(address);
    }

    /// All links and leases.
    pub(crate) fn inventory(&self) -> BTreeSet<String> {
        let links = ip("-oneline link show");
        let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
        let leases = fs::read_dir(self.config().run_dir).unwrap();
        let leases = leases.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let lasting = |name: &String| !name.starts_with("last_reserved_ip");
        links.lines().filter_map(name).chain(leases).filter(lasting).collect()
    }

    pub(crate) fn leases(&self) -> usize {
        let names = fs::read_dir(self.config().run_dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok())).count()
    }

    pub(crate) fn link_exists(&self, name: &str) -> bool {
        let links = ip("-oneline link show");
        [format!(": {name}@"), format!(": {name}:")].iter().any(|shown| links.contains(shown))
    }

    /// Every rule of both families.
    pub(crate) fn rules(&self) -> String {
        ["iptables", "ip6tables"]
            .iter()
            .flat_map(|command| ["nat", "filter"].map(|table| run(&format!("{command} -t {table} -S"))))
            .collect()
    }

    /// Until it is dropped, nothing of /usr/sbin is there.
    pub(crate) fn without_sbin(&self) -> impl Drop + use<> {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                run("umount /usr/sbin");
            }
        }
        let empty = self.folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        run(&format!("mount --bind {} /usr/sbin", empty.display()));
        Restore
    }

    pub(crate) fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread that lives in it.
pub(crate) struct Namespace {
    pub(crate) id: PodId,
    netns: OwnedFd,
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    fn new(id: PodId) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, made) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            pod_sysctls(true).for_each(set_sysctl);
            ready.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self { id, netns: made.recv().unwrap().into(), jobs }
    }

    /// Runs a closure inside the namespace; commands it starts are inside too.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(send.send(job())))).unwrap();
        receive.recv().expect("the job inside the namespace failed")
    }

    pub(crate) fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    pub(crate) fn netlink(&self) -> OwnedFd {
        self.run(netlink_socket)
    }

    pub(crate) async fn try_attach(&self, network: &Arc<PodNetwork>) -> Result<Attachment, NetworkError> {
        network.add(&self.id, self.netns(), self.netlink()).await
    }

    pub(crate) async fn attach(&self, network: &Arc<PodNetwork>) -> Attachment {
        self.try_attach(network).await.unwrap()
    }

    pub(crate) fn ping(&self, address: IpAddr) {
        self.run(move || ping(address));
    }

    /// Whether an address answers at all, within a second.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        self.run(move || {
            let ping = Command::new("busybox").args(["ping", "-c", "1", "-W", "1", &address.to_string()]).output();
            ping.unwrap().status.success()
        })
    }
}

fn set_sysctl((name, value): &(&str, &str)) {
    fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).unwrap();
}

fn netlink_socket() -> OwnedFd {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap()
}

fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn nsenter_move(link: &str, netns: &str) {
    // The kernel takes a pid's namespace; a process inside it lends its own.
    let mut inside = Command::new("nsenter").arg(format!("--net={netns}")).args(["sleep", "60"]).spawn().unwrap();
    let start = Instant::now();
    let same = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok() == fs::read_link(netns).ok();
    while !same(inside.id()) {
        assert!(start.elapsed() < PATIENCE, "nsenter did not enter");
        std::thread::sleep(Duration::from_millis(1));
    }
    ip(&format!("link set {link} netns {}", inside.id()));
    inside.kill().unwrap();
    inside.wait().unwrap();
}

pub(crate) fn ping(address: IpAddr) {
    let out = Command::new("busybox").args(["ping", "-c", "1", "-W", "2", &address.to_string()]).output().unwrap();
    assert!(out.status.success(), "ping {address}: {}", String::from_utf8_lossy(&out.stdout));
}

pub(crate) fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

/// Runs a command line without quotes in it and returns what it prints.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let out = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A server that tells one client which address it comes from.
pub(crate) struct PeerServer {
    pub(crate) address: SocketAddr,
}

pub(crate) fn serve_peer(address: IpAddr) -> PeerServer {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
    PeerServer { address }
}

pub(crate) fn read_peer(server: SocketAddr) -> IpAddr {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.parse().unwrap()
}

/// Debian's bridge and host-local plugins, run as a runtime runs them.
pub(crate) struct ReferencePlugin {
    config: String,
}

impl ReferencePlugin {
    pub(crate) fn new(host: &TestHost, masquerade: bool) -> Self {
        let leases = host.folder.path().join("reference");
        let config = format!(
            r#"{{"cniVersion":"1.0.0","name":"reference","type":"bridge","bridge":"cni0","isGateway":true,
                "ipMasq":{masquerade},"ipam":{{"type":"host-local","dataDir":"{}",
                "ranges":[[{{"subnet":"10.99.0.0/16"}}],[{{"subnet":"fd99::/64"}}]],
                "routes":[{{"dst":"0.0.0.0/0"}},{{"dst":"::/0"}}]}}}}"#,
            leases.display()
        );
        Self { config }
    }

    pub(crate) fn add(&self, pod: &Namespace) {
        self.call("ADD", pod);
    }

    pub(crate) fn delete(&self, pod: &Namespace) {
        self.call("DEL", pod);
    }

    fn call(&self, command: &str, pod: &Namespace) {
        use std::os::fd::AsRawFd;
        let netns = format!("/proc/{}/fd/{}", std::process::id(), pod.netns.as_raw_fd());
        let mut plugin = Command::new("/usr/lib/cni/bridge")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", pod.id.as_str())
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        plugin.stdin.take().unwrap().write_all(self.config.as_bytes()).unwrap();
        let out = plugin.wait_with_output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stdout));
    }
}

/// Answers every client on a port, by TCP with its address and by UDP with what it sent.
pub(crate) fn serve_forever(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            stream.write_all(peer.to_string().as_bytes()).unwrap();
        }
    });
    let socket = UdpSocket::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
}

/// Talks to [`serve_forever`] by both protocols.
pub(crate) fn tcp_and_udp(server: SocketAddr) {
    read_peer(server);
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(server).unwrap();
    socket.send(b"echo").unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("udp {server}: {error}"));
    assert_eq!(&buffer[..length], b"echo");
}

pub(crate) fn reachable(server: &str) -> bool {
    TcpStream::connect_timeout(&server.parse().unwrap(), Duration::from_millis(500)).is_ok()
}
