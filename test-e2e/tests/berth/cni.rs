//! Pods whose network CNI plugins make: ours in the agent, Debian's as programs, and scripts that misbehave.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri_api::v1;
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::leaks::Census;
use tonic::Status;

use crate::recovery::{after_first_use, crash, nothing_more_than};

/// Where Debian has its plugins.
const DEBIANS: &str = "/usr/lib/cni";

/// A machine whose agent finds a network.
pub(crate) struct Node {
    pub(crate) e2e: Fixture,
    folder: PathBuf,
}

impl Node {
    /// With plugins of Debian's by the name `debian-PLUGIN`, and `host-local`, which they delegate to.
    pub(crate) async fn new(name: &str) -> Node {
        let e2e = Fixture::own(name).await;
        let folder = e2e.agent().network_dir();
        let plugins = e2e.agent().plugin_dir();
        fs::create_dir(&plugins).expect("folder");
        for plugin in ["bridge", "portmap", "tuning", "firewall"] {
            let program = Path::new(DEBIANS).join(plugin);
            assert!(program.exists(), "{} is missing: hack/packages has it", program.display());
            std::os::unix::fs::symlink(program, plugins.join(format!("debian-{plugin}"))).expect("link");
        }
        std::os::unix::fs::symlink(Path::new(DEBIANS).join("host-local"), plugins.join("host-local")).expect("link");
        Node { e2e, folder }
    }

    /// Has this list be the network, and waits until the agent says so.
    pub(crate) async fn network(&self, version: &str, plugins: &[String]) {
        self.write("10-pods.conflist", &list(version, plugins));
        self.ready().await;
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.folder).expect("folder");
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text).expect("list");
        fs::rename(new, self.folder.join(name)).expect("list");
    }

    async fn ready(&self) {
        eventually("the network is ready", async || self.complaint().await.is_none().then_some(())).await;
    }

    /// Why the network is not ready.
    async fn complaint(&self) -> Option<String> {
        let status = self.e2e.client.status().await.expect("status");
        let conditions = status.status.unwrap_or_default().conditions;
        let condition = conditions.into_iter().find(|one| one.r#type == "NetworkReady").expect("a condition");
        (!condition.status).then_some(condition.message)
    }

    async fn complains_of(&self, words: &str) {
        let found = async || self.complaint().await.filter(|text| text.contains(words));
        eventually(&format!("the network's condition says {words:?}"), found).await;
    }

    /// A plugin that is a shell script, after which it does nothing but pass on what came before.
    fn script(&self, name: &str, text: &str) {
        let pass_on = r#"
            input=$(cat)
            [ "$CNI_COMMAND" = ADD ] || exit 0
            echo "$input" | sed 's/.*"prevResult"://; s/,"type":"[a-z-]*"}$//'"#;
        self.program(name, &format!("{text}\n{pass_on}"));
    }

    /// A plugin that is a shell script.
    fn program(&self, name: &str, text: &str) {
        let path = self.e2e.agent().plugin_dir().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }

    /// The addresses that are leased.
    pub(crate) fn leases(&self) -> Vec<String> {
        files(&self.leases_dir().join("pods")).into_iter().filter(|name| !name.starts_with(['l'])).collect()
    }

    fn leases_dir(&self) -> PathBuf {
        self.e2e.agent().root.join("leases")
    }

    pub(crate) fn records(&self) -> Vec<String> {
        files(&self.e2e.agent().root.join("cni/results"))
    }

    /// One pod's life.
    async fn life(&self, name: &str) -> Result<(), Status> {
        let pod = self.e2e.try_pod(name, |_| {}).await?;
        self.e2e.client.stop_pod(&pod.id).await?;
        self.e2e.client.remove_pod(&pod.id).await
    }

    /// The plugin that makes the link, with addresses of both families.
    pub(crate) fn bridge(&self, kind: &str) -> String {
        self.bridge_by(kind, "host-local")
    }

    /// The same with addresses by another plugin.
    fn bridge_by(&self, kind: &str, ipam: &str) -> String {
        format!(
            r#"{{"type": "{kind}", "bridge": "cni-e2e", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {{"type": "{ipam}", "dataDir": "{}",
            "ranges": [[{{"subnet": "10.77.0.0/16"}}], [{{"subnet": "fd00:77::/64"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}}}"#,
            self.leases_dir().display()
        )
    }
}

fn list(version: &str, plugins: &[String]) -> String {
    format!(r#"{{"cniVersion": "{version}", "name": "pods", "plugins": [{}]}}"#, plugins.join(", "))
}

pub(crate) fn portmap(kind: &str) -> String {
    format!(r#"{{"type": "{kind}", "capabilities": {{"portMappings": true}}}}"#)
}

fn plain(kind: &str) -> String {
    format!(r#"{{"type": "{kind}"}}"#)
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().display().to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_list_that_appears_is_for_new_pods_and_each_leaves_the_network_it_is_in() {
    let mut node = Node::new("cni-auto").await;
    let before = node.e2e.pod("before").await;
    assert!(before.ip().await.starts_with("10.88."), "no list, so it is the agent's own network");
    let before = before.id;

    // A list counts for the very next pod.
    node.write("10-pods.conflist", &list("1.0.0", &[node.bridge("bridge"), portmap("portmap")]));
    let pod = node.e2e.pod("plugins").await;
    let ips = pod.status().await.network.expect("addresses");
    assert!(ips.ip.starts_with("10.77.0."), "{ips:?}");
    assert!(ips.additional_ips[0].ip.starts_with("fd00:77::"), "{ips:?}");
    let container = pod.start("main", &["sleep", "1000"]).await;
    let inside = container.sh("ip addr show eth0; ip route; ip link show lo; cat /etc/hosts").await;
    assert!(inside.contains(&format!("{}/16", ips.ip)) && inside.contains("default via 10.77.0.1"), "{inside}");
    assert!(inside.contains("LOOPBACK,UP"), "{inside}");
    assert!(inside.contains(&format!("{}\t", ips.ip)), "/etc/hosts names the address: {inside}");
    assert_eq!((node.leases().len(), node.records().len()), (2, 1));
    let id = pod.id.clone();

    // The list vanishes, and the agent with it: each pod leaves by what is recorded of it.
    fs::remove_file(node.folder.join("10-pods.conflist")).expect("removed");
    crash(&mut node.e2e, async || ()).await;
    let after = node.e2e.pod("after").await;
    assert!(after.ip().await.starts_with("10.88."));
    let after = after.id;
    node.e2e.agent().configure_network(&["mode: embedded"]).expect("configured");
    crash(&mut node.e2e, async || ()).await;
    for id in [&before, &id, &after] {
        node.e2e.client.stop_pod(id).await.expect("stop");
        node.e2e.client.remove_pod(id).await.expect("remove");
    }
    assert_eq!((node.leases(), node.records()), (vec![], vec![]));
}

#[tokio::test]
async fn the_condition_says_why_the_network_is_not_ready() {
    let mut node = Node::new("cni-status").await;
    node.e2e.agent().configure_network(&["mode: cni"]).expect("configured");
    crash(&mut node.e2e, async || ()).await;
    node.complains_of("there is no .conflist, .conf or .json file in").await;
    let refused = node.e2e.try_pod("none", |_| {}).await.expect_err("there is no network");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    node.write("10-pods.conflist", r#"{"name": "pods", "plugins": [{"kind": "bridge"}]}"#);
    node.complains_of("10-pods.conflist: plugins[0].type: is missing").await;
    let allowed = node.e2e.agent().plugin_dir().join("allowed");
    let status = format!(
        r#"if [ "$CNI_COMMAND" = STATUS ] && [ ! -e {} ]; then echo '{{"code": 50, "msg": "no daemon"}}'; exit 1; fi"#,
        allowed.display()
    );
    node.script("daemon", &status);
    node.write("10-pods.conflist", &list("1.1.0", &[node.bridge("bridge"), plain("daemon")]));
    node.complains_of("CNI plugin daemon: STATUS: no daemon (code 50)").await;
    fs::write(allowed, "").expect("allowed");
    node.ready().await;
    node.life("ready").await.expect("and pods can be run");
    // A folder that goes away as a whole, and comes back.
    fs::remove_dir_all(&node.folder).expect("removed");
    node.complains_of("there is no .conflist").await;
    node.network("1.0.0", &[node.bridge("bridge")]).await;
}

#[tokio::test]
async fn a_plugin_that_fails_is_named_and_what_came_before_is_taken_back() {
    let node = Node::new("cni-fails").await;
    node.network("1.0.0", &[node.bridge("bridge")]).await;
    let before = after_first_use(&node.e2e).await;
    node.script("failing", r#"if [ "$CNI_COMMAND" = ADD ]; then echo '{"code": 111, "msg": "no more links", "details": "really"}'; exit 1; fi"#);
    node.network("1.0.0", &[node.bridge("bridge"), portmap("portmap"), plain("failing")]).await;
    let refused = node.e2e.try_pod("fails", |_| {}).await.expect_err("the plugin fails");
    let expected = "CNI network pods: CNI plugin failing: ADD: no more links; really (code 111)";
    assert!(refused.message().contains(expected), "{refused:?}");
    nothing_more_than(&node.e2e, &before).await;
    node.network("1.0.0", &[plain("no-such-plugin")]).await;
    let refused = node.e2e.try_pod("fails", |_| {}).await.expect_err("there is no such plugin");
    assert!(refused.message().contains(r#"CNI plugin "no-such-plugin" is not in"#), "{refused:?}");
    eventually("it is taken back when it can be", async || {
        node.script("no-such-plugin", "");
        node.records().is_empty().then_some(())
    })
    .await;
    nothing_more_than(&node.e2e, &before).await;
}

/// Of plugins of ours, and of Debian's.
#[tokio::test]
async fn the_network_of_a_pod_ends_with_it_also_for_another_that_is_in_it() {
    let node = Node::new("cni-target").await;
    for by in ["", "debian-"] {
        node.network("1.0.0", &[node.bridge(&format!("{by}bridge"))]).await;
        let target = node.e2e.pod("target").await;
        let into = |config: &mut v1::PodSandboxConfig| {
            let options = test_e2e::spec::pod_namespaces(config);
            options.network = v1::NamespaceMode::Target.into();
            options.target_id = target.id.clone();
        };
        let inside = node.e2e.pod_with("inside", into).await;
        let main = inside.start("main", &["sleep", "1000"]).await;
        assert_eq!(inside.ip().await, target.ip().await);
        assert!(main.sh("ip -4 addr show eth0").await.contains(&inside.ip().await), "{by}");
        assert_eq!(node.records().len(), 1, "there is one network");
        node.e2e.client.stop_pod(&target.id).await.expect("stop");
        eventually(&format!("{by}: the interface goes with the address"), async || {
            let gone = main.sh("ip -o link | grep -v ' lo:' | wc -l").await == "0\n";
            (gone && node.leases().is_empty() && node.records().is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_take_back_keeps_no_pod() {
    let mut node = Node::new("cni-del").await;
    let broken = node.e2e.agent().plugin_dir().join("broken");
    let guard = format!(
        r#"if [ "$CNI_COMMAND" = DEL ] && [ -e {} ]; then echo '{{"code": 999, "msg": "not now"}}'; exit 1; fi"#,
        broken.display()
    );
    node.script("stubborn", &guard);
    // From 1.1.0 on plugins are told at the agent's start who lives, and drop the rest.
    node.network("1.1.0", &[node.bridge("bridge"), plain("stubborn")]).await;
    after_first_use(&node.e2e).await;
    let living = node.e2e.pod("living").await.id;
    let own = node.leases();
    let before = Census::take(&node.e2e.machine.host, &node.e2e.agent());
    for crashing in [false, true] {
        fs::write(&broken, "").expect("broken");
        node.life("stubborn").await.expect("the pod ends all the same");
        assert_eq!((node.records().len(), node.leases().len()), (2, 4), "and is remembered");
        node.life("another").await.expect("nobody else is kept");
        if crashing {
            node.e2e.agent().kill();
            fs::write(node.leases_dir().join("pods/10.77.1.1"), "nobody\r\neth0").expect("a lease");
            fs::remove_file(&broken).expect("repaired");
            let machine = node.e2e.machine.clone();
            node.e2e.agent().launch(&machine.host).expect("starts again");
            node.e2e.reconnect().await;
        } else {
            fs::remove_file(&broken).expect("repaired");
        }
        eventually("it is taken back", async || (node.records().len() == 1).then_some(())).await;
        // What the agent does at its start it has done when it answers.
        node.ready().await;
        assert_eq!(node.leases(), own, "what belongs to nobody is gone, and what belongs to a living pod is not");
        nothing_more_than(&node.e2e, &before).await;
    }
    node.e2e.client.remove_pod(&living).await.expect("remove");
}

#[tokio::test]
async fn a_plugin_that_hangs_delays_its_own_pod_alone() {
    let mut node = Node::new("cni-hangs").await;
    node.e2e.agent().configure_network(&["plugin_timeout: 2s"]).expect("configured");
    crash(&mut node.e2e, async || ()).await;
    let hanging = node.e2e.agent().plugin_dir().join("hanging");
    node.script("slow", &format!("[ -e {} ] && exec sleep 1000", hanging.display()));
    node.network("1.0.0", &[node.bridge("bridge"), plain("slow")]).await;
    let living = node.e2e.pod("living").await;
    let before = Census::take(&node.e2e.machine.host, &node.e2e.agent());
    fs::write(&hanging, "").expect("hanging");
    let adding = node.e2e.try_pod("hangs", |_| {});
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(node.complaint().await, None);
        living.status().await;
    };
    let (refused, ()) = futures_util::future::join(adding, meanwhile).await;
    let refused = refused.expect_err("the plugin hangs");
    assert!(refused.message().contains("CNI plugin slow: ADD took longer than "), "{refused:?}");
    fs::remove_file(&hanging).expect("repaired");
    eventually("it is taken back", async || (node.records().len() == 1).then_some(())).await;
    nothing_more_than(&node.e2e, &before).await;
}

#[tokio::test]
async fn a_crash_at_every_step_of_add_and_del_leaves_nothing() {
    let mut node = Node::new("cni-crash").await;
    let points = node.e2e.agent().fault_points().expect("berth debug fault-points");
    let points: Vec<_> = points.into_iter().filter(|point| point.starts_with("network.plugin_")).collect();
    assert_eq!(points.len(), 4, "build the agent with --features fault-points");
    for by in ["", "debian-"] {
        let (bridge, portmap) = (node.bridge(&format!("{by}bridge")), portmap(&format!("{by}portmap")));
        node.network("1.0.0", &[bridge.clone(), portmap.clone()]).await;
        let before = after_first_use(&node.e2e).await;
        for point in &points {
            eprintln!("{by}: fault point {point}");
            node.e2e.agent().arm(Some(point)).expect("arm");
            crash_in_a_life(&mut node, point, &before).await;
        }
        // And before and behind each plugin, by one that kills who calls it.
        let armed = node.e2e.agent().plugin_dir().join("armed");
        let kill = format!(
            r#"if [ "$(cat {0} 2>/dev/null)" = "$CNI_COMMAND" ]; then rm {0}; kill -9 $PPID; sleep 1; exit 1; fi"#,
            armed.display()
        );
        node.script("killer", &kill);
        for (place, list) in
            [[bridge.clone(), plain("killer"), portmap.clone()], [bridge.clone(), portmap.clone(), plain("killer")]]
                .iter()
                .enumerate()
        {
            node.network("1.0.0", list).await;
            for command in ["ADD", "DEL"] {
                eprintln!("{by}: killed in {command} by plugin {}", place + 1);
                fs::write(&armed, command).expect("armed");
                crash_in_a_life(&mut node, command, &before).await;
            }
        }
        // And before and behind the plugin of the addresses, in the midst of the one that calls it.
        let agent = if by.is_empty() { "$PPID" } else { "$(awk '/^PPid/ {print $2}' /proc/$PPID/status)" };
        let kill = |when: &str| {
            format!(
                r#"if [ "$(cat {0} 2>/dev/null)" = "{when} $CNI_COMMAND" ]; then rm {0}; kill -9 {agent}; fi"#,
                armed.display()
            )
        };
        let addresses = format!("{}\n{DEBIANS}/host-local || exit 1\n{}", kill("before"), kill("behind"));
        node.program("addresses", &addresses);
        node.network("1.0.0", &[node.bridge_by(&format!("{by}bridge"), "addresses"), portmap.clone()]).await;
        for command in ["before ADD", "behind ADD", "before DEL", "behind DEL"] {
            eprintln!("{by}: killed {command} of the addresses");
            fs::write(&armed, command).expect("armed");
            crash_in_a_life(&mut node, command, &before).await;
        }
    }
}

/// A plugin's program outlives the agent that called it, and leases addresses when the next one has begun already.
#[tokio::test]
async fn a_plugin_that_outlives_the_agent_leaves_nothing() {
    let mut node = Node::new("cni-orphan").await;
    let root = node.e2e.agent().root.clone();
    let [armed, held, leased] = ["armed", "held", "leased"].map(|name| root.join(name));
    let text = format!(
        r#"[ "$CNI_COMMAND" = ADD ] && rm {} 2>/dev/null || exec {DEBIANS}/host-local
        : > {}; sleep 6; {DEBIANS}/host-local; : > {}"#,
        armed.display(),
        held.display(),
        leased.display()
    );
    node.program("addresses", &text);
    node.network("1.0.0", &[node.bridge_by("debian-bridge", "addresses"), portmap("debian-portmap")]).await;
    let before = after_first_use(&node.e2e).await;
    fs::write(&armed, "").expect("armed");
    let interrupted = futures_util::future::join(node.life("orphan"), async {
        eventually("the plugin is at work", async || held.exists().then_some(())).await;
        node.e2e.agent().kill();
    });
    interrupted.await.0.expect_err("the agent was killed");
    let machine = node.e2e.machine.clone();
    node.e2e.agent().launch(&machine.host).expect("starts again");
    node.e2e.reconnect().await;
    eventually("it is taken back", async || node.records().is_empty().then_some(())).await;
    eventually("the plugin comes to its end", async || leased.exists().then_some(())).await;
    for marker in [&held, &leased] {
        fs::remove_file(marker).expect("removed");
    }
    assert_eq!(node.leases(), Vec::<String>::new());
    nothing_more_than(&node.e2e, &before).await;
}

#[tokio::test]
async fn the_end_of_a_pod_does_not_wait_for_our_plugins_and_its_removal_does() {
    let mut node = Node::new("cni-behind").await;
    node.e2e.agent().configure_network(&["plugin_timeout: 4s"]).expect("configured");
    crash(&mut node.e2e, async || ()).await;
    node.network("1.0.0", &[node.bridge("bridge"), portmap("portmap")]).await;
    let before = after_first_use(&node.e2e).await;
    let pod = node.e2e.pod("behind").await;
    // Whoever has the lock keeps the plugin from giving addresses back, which then fails.
    let lock = fs::File::open(node.leases_dir().join("pods/lock")).expect("lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let failure = "a pod that has ended could not be taken out of its network";
    node.e2e.client.stop_pod(&pod.id).await.expect("stop");
    let log = node.e2e.agent().log_tail();
    assert!(!log.contains(failure), "nobody waits for the plugins: {log}");
    assert_eq!(pod.status().await.state(), v1::PodSandboxState::SandboxNotready);
    node.e2e.client.stop_pod(&pod.id).await.expect("stopped already");
    assert_eq!((node.leases().len(), node.records().len()), (2, 1));
    node.e2e.client.remove_pod(&pod.id).await.expect("remove");
    let log = node.e2e.agent().log_tail();
    assert!(log.contains(failure), "the plugins have been heard of: {log}");
    drop(lock);
    eventually("it is taken out", async || node.records().is_empty().then_some(())).await;
    nothing_more_than(&node.e2e, &before).await;
}

#[tokio::test]
async fn a_pod_gets_the_address_and_the_port_of_one_that_is_just_leaving() {
    let node = Node::new("cni-succession").await;
    // One address is all there is.
    let bridge = node.bridge("bridge").replace("10.77.0.0/16", "10.77.0.0/30");
    node.network("1.0.0", &[bridge, portmap("portmap")]).await;
    let before = after_first_port(&node).await;
    for round in 0..10 {
        let mapping = v1::PortMapping { container_port: 80, host_port: 20_000, ..Default::default() };
        let pod = node.e2e.pod_with(&format!("heir-{round}"), |config| config.port_mappings = vec![mapping]).await;
        assert_eq!(pod.ip().await, "10.77.0.2");
        node.e2e.client.stop_pod(&pod.id).await.expect("stop");
    }
    for pod in node.e2e.client.list_pods(None).await.expect("list") {
        node.e2e.client.remove_pod(&pod.id).await.expect("remove");
    }
    nothing_more_than(&node.e2e, &before).await;
}

async fn crash_in_a_life(node: &mut Node, what: &str, before: &Census) {
    let interrupted = node.life("crash").await;
    assert!(node.e2e.agent().wait_gone(), "{what}: the agent did not come by there: {interrupted:?}");
    node.e2e.agent().arm(None).expect("disarm");
    let machine = node.e2e.machine.clone();
    node.e2e.agent().launch(&machine.host).unwrap_or_else(|error| panic!("{what}: {error}"));
    node.e2e.reconnect().await;
    for pod in node.e2e.client.list_pods(None).await.expect("list") {
        node.e2e.client.stop_pod(&pod.id).await.expect("stop");
        node.e2e.client.remove_pod(&pod.id).await.expect("remove");
    }
    nothing_more_than(&node.e2e, before).await;
    node.life("crash").await.unwrap_or_else(|error| panic!("{what}: asked again: {error:?}"));
    nothing_more_than(&node.e2e, before).await;
}

#[tokio::test]
async fn a_host_port_leads_to_a_pod_of_ours_and_of_debians_plugins() {
    let node = Node::new("cni-ports").await;
    for by in ["", "debian-"] {
        node.network("1.0.0", &[node.bridge(&format!("{by}bridge")), portmap(&format!("{by}portmap"))]).await;
        let free = node.e2e.inside(|| TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr()));
        let port = free.expect("a free port").port();
        let mapping = v1::PortMapping { container_port: 8080, host_port: port.into(), ..Default::default() };
        let pod = node.e2e.pod_with("ports", |config| config.port_mappings = vec![mapping]).await;
        let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www";
        let _server = pod.start("server", &["sh", "-c", script]).await;
        eventually(&format!("the port leads to the pod of {by}bridge"), async || {
            let answer = node.e2e.inside(|| {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
                let mut text = String::new();
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
                stream.read_to_string(&mut text).ok().map(|_| text)
            });
            answer.filter(|text| text.ends_with("hello\n")).map(drop)
        })
        .await;
        node.e2e.client.stop_pod(&pod.id).await.expect("stop");
        node.e2e.client.remove_pod(&pod.id).await.expect("remove");
    }
}

/// The plugins' tables and sets stay when they are there once.
pub(crate) async fn after_first_port(node: &Node) -> Census {
    let first = v1::PortMapping { container_port: 80, host_port: 19_999, ..Default::default() };
    let first = node.e2e.pod_with("first", |config| config.port_mappings = vec![first]).await;
    node.e2e.client.remove_pod(&first.id).await.expect("remove");
    after_first_use(&node.e2e).await
}
