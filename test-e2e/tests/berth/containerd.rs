//! `berth-cni` as the plugins of a runtime that others wrote: Debian's containerd runs pods with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use cri_api::v1;
use nix::mount::{MsFlags, mount};
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::host::{Host, Namespaces, Spawn, sibling_binary};
use test_e2e::image::{self, Format};
use test_e2e::machine::Setup;
use test_e2e::registry::Registry;

const PLUGINS: [&str; 6] = ["bandwidth", "bridge", "host-local", "loopback", "portmap", "tuning"];

const NETWORK: &str = r#"{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni-test0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "LEASES",
              "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]],
              "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    {"type": "tuning", "sysctl": {"net.core.somaxconn": "77"}, "dataDir": "TUNING"}
  ]}"#;

/// What containerd and its runc take for granted about a node that is not this one.
const CONTAINERD: &str = r#"version = 2
root = "ROOT"
state = "STATE"
[grpc]
  address = "SOCKET"
[plugins."io.containerd.internal.v1.opt"]
  path = "ROOT/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "PLUGINS"
    conf_dir = "NETWORKS"
"#;

/// A node with containerd on it, and nothing of it elsewhere.
struct Node {
    host: Host,
    folder: PathBuf,
}

impl Node {
    fn start() -> Node {
        let name = format!("berth-e2e-{}-containerd", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        for dir in ["plugins", "networks", "state", "root"] {
            fs::create_dir_all(folder.join(dir)).expect("folder");
        }
        let host = Host::start(Namespaces::New, &folder, &format!("{name}-host")).expect("host");
        // What containerd, its shims and the library that runs plugins keep by names of their own.
        for dir in ["/run/containerd", "/run/netns", "/var/lib/cni"] {
            fs::create_dir_all(dir).expect("folder");
            host.run(|| mount(Some("e2e"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>)).expect("mount");
        }
        let node = Node { host, folder };
        node.install_plugins();
        node.run_containerd();
        node
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn install_plugins(&self) {
        let program = sibling_binary("berth-cni").expect("berth-cni is built");
        for plugin in PLUGINS {
            symlink(&program, self.folder.join("plugins").join(plugin)).expect("link");
        }
        let network = NETWORK.replace("LEASES", &self.path("leases")).replace("TUNING", &self.path("tuning"));
        fs::write(self.folder.join("networks/10-pods.conflist"), network).expect("network");
    }

    fn run_containerd(&self) {
        let registry = Registry::start(&self.host, &self.folder).expect("registry");
        let pause = image::busybox(Format::Docker).expect("busybox");
        let pause = pause.set("Cmd", serde_json::json!(["sleep", "100000"])).build();
        let pause = registry.push("e2e/pause", "1", &pause).expect("push");
        let config = CONTAINERD
            .replace("ROOT", &self.path("root"))
            .replace("STATE", &self.path("state"))
            .replace("SOCKET", &self.socket())
            .replace("PAUSE", &pause)
            .replace("PLUGINS", &self.path("plugins"))
            .replace("NETWORKS", &self.path("networks"));
        fs::write(self.folder.join("config.toml"), config).expect("configuration");
        let argv = vec!["containerd".into(), "-c".into(), self.path("config.toml")];
        let log = self.folder.join("containerd.log");
        self.host.spawn(&Spawn { argv, env: Vec::new(), log }).expect("Debian's containerd");
    }

    fn socket(&self) -> String {
        self.path("containerd.sock")
    }

    fn leases(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.join("leases/pods")).expect("leases");
        let names = names.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

fn command(line: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn containerd_runs_pods_with_our_plugins() {
    let node = Node::start();
    eventually("containerd listens", async || UnixStream::connect(Path::new(&node.socket())).ok()).await;
    let endpoint = Some(format!("unix://{}", node.socket()));
    let setup = Setup { name: "on-containerd".into(), endpoint, inside: Some(node.host.pid()), ..Setup::default() };
    let e2e = Fixture::own_with(setup).await;

    let mapping = v1::PortMapping { container_port: 8080, host_port: 18077, ..Default::default() };
    let with_port = |config: &mut v1::PodSandboxConfig| config.port_mappings = vec![mapping];
    let pod = e2e.pod_with("served", with_port).await;
    let ip = pod.ip().await;
    assert!(ip.starts_with("10.77.0."), "{ip}");
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www";
    let server = pod.start("server", &["sh", "-c", script]).await;
    eventually("the server listens", async || {
        (server.exec(&["wget", "-qO-", "http://127.0.0.1:8080/"]).await.code == 0).then_some(())
    })
    .await;
    assert_eq!(server.sh("cat /proc/sys/net/core/somaxconn").await, "77\n");
    assert!(server.sh("ip -6 address show dev eth0").await.contains("fd00:77::"));
    assert!(server.sh("ip link show lo").await.contains("UP"));

    let (_other, client) = e2e.run("client", &["sleep", "1000"]).await;
    let gateway = "10.77.0.1:18077";
    for to in [format!("{ip}:8080"), gateway.to_owned()] {
        assert_eq!(client.sh(&format!("wget -qO- http://{to}/")).await, "hello\n", "{to}");
    }
    for to in ["127.0.0.1:18077", gateway] {
        assert_eq!(e2e.inside(|| command(&format!("busybox wget -qO- http://{to}/"))), "hello\n", "{to}");
    }
    assert_eq!(node.leases().len(), 4, "two pods of two families");

    for pod in e2e.client.list_pods(None).await.expect("pods") {
        e2e.client.stop_pod(&pod.id).await.expect("stop");
        e2e.client.remove_pod(&pod.id).await.expect("remove");
    }
    assert_eq!(node.leases(), [""; 0]);
    let left = e2e.inside(|| command("ip -oneline link; nft list ruleset"));
    assert!(!left.contains("veth") && !left.contains("18077") && !left.contains("10.77.0.2"), "{left}");
}
