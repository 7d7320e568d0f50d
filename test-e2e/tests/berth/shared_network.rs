//! Pods in the network of another one: `namespace_options.network` TARGET.

use cri_api::v1::{DnsConfig, NamespaceMode, PodSandboxConfig, PodSandboxState, PortMapping, UserNamespace};
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::process;
use test_e2e::spec::pod_namespaces;
use tonic::{Code, Status};

use crate::recovery::{after_first_use, crash, crash_at, nothing_more_than};

/// In the network of whom `id` names.
fn into(id: &str) -> impl FnOnce(&mut PodSandboxConfig) {
    move |config| {
        let options = pod_namespaces(config);
        options.network = NamespaceMode::Target.into();
        options.target_id = id.to_owned();
    }
}

async fn exec(e2e: &Fixture, container: &str, line: &str) -> String {
    let output = e2e.client.exec(container, &["sh", "-c", line], 30).await.expect("exec");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn addresses(e2e: &Fixture, pod: &str) -> Vec<String> {
    let network = e2e.client.pod_status(pod).await.expect("status").network.expect("network");
    std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
}

async fn end(e2e: &Fixture, pods: &[&str]) {
    for pod in pods {
        e2e.client.stop_pod(pod).await.expect("stop");
        e2e.client.remove_pod(pod).await.expect("remove");
    }
}

#[tokio::test]
async fn a_pod_shares_the_network_of_its_target_until_that_is_stopped() {
    let mut e2e = Fixture::own("target").await;
    let before = after_first_use(&e2e).await;
    let target = e2e.pod("target").await;
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www";
    let server = target.start("server", &["sh", "-c", script]).await;
    let dns = DnsConfig { servers: vec!["192.0.2.53".to_owned()], ..Default::default() };
    let own = |config: &mut PodSandboxConfig| {
        into(&target.id)(config);
        config.dns_config = Some(dns.clone());
    };
    let pod = e2e.pod_with("inside", own).await;
    let main = pod.start("main", &["sleep", "1000"]).await;
    let by_container = e2e.pod_with("by-container", into(&server.id)).await;
    let ips = addresses(&e2e, &target.id).await;
    assert_eq!(addresses(&e2e, &pod.id).await, ips);
    assert_eq!(addresses(&e2e, &by_container.id).await, ips);
    let namespaces = pod.status().await.linux.and_then(|linux| linux.namespaces).and_then(|all| all.options);
    let told = namespaces.map(|options| (options.network(), options.target_id));
    assert_eq!(told, Some((NamespaceMode::Target, target.id.clone())), "as it was asked for");

    let seen = "until wget -qO- http://127.0.0.1:8080/; do sleep 0.1; done; hostname; cat /etc/resolv.conf /etc/hosts";
    let seen = exec(&e2e, &main.id, seen).await;
    assert!(seen.starts_with("hello\ninside\nnameserver 192.0.2.53\n"), "a name and DNS file of its own: {seen}");
    assert!(seen.contains(&format!("{}\tinside", ips[0])), "{seen}");

    // All of it holds for the next agent, which makes containers in the network as well.
    let (target, pod, by_container) = (target.id.clone(), pod.id.clone(), by_container.id.clone());
    let (main, config) = (main.id.clone(), e2e.client.pod_status(&pod).await.expect("status"));
    assert_eq!(config.state(), PodSandboxState::SandboxReady);
    crash(&mut e2e, async || ()).await;
    assert_eq!(addresses(&e2e, &pod).await, ips);
    assert_eq!(exec(&e2e, &main, "wget -qO- http://127.0.0.1:8080/").await, "hello\n");

    // The target's end is the end of the network: its addresses are free, and who is left is without.
    e2e.client.stop_pod(&target).await.expect("stop");
    assert_eq!(exec(&e2e, &main, "ip -o link | grep -v ' lo:' | wc -l").await, "0\n");
    assert_eq!(e2e.client.pod_status(&pod).await.expect("status").state(), PodSandboxState::SandboxReady);
    assert_eq!(addresses(&e2e, &pod).await, ips, "what was told stays told");
    let refused = e2e.try_pod("late", into(&target)).await.expect_err("it is stopped");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    end(&e2e, &[&pod, &by_container, &target]).await;
    nothing_more_than(&e2e, &before).await;
}

#[tokio::test]
async fn what_cannot_be_shared_is_refused() {
    let e2e = Fixture::shared().await;
    let target = e2e.pod("refusing").await;
    let joined = e2e.pod_with("joined", into(&target.id)).await;
    let node = e2e.pod_with("node", |config| pod_namespaces(config).network = NamespaceMode::Node.into()).await;
    let mapped = |config: &mut PodSandboxConfig| {
        pod_namespaces(config).userns_options =
            Some(UserNamespace { mode: NamespaceMode::Pod.into(), ..Default::default() });
    };
    let with_users = e2e.pod_with("with-users", mapped).await;
    let refused = async |id: &str, change: &dyn Fn(&mut PodSandboxConfig)| -> Status {
        let both = |config: &mut PodSandboxConfig| {
            into(id)(config);
            change(config);
        };
        e2e.try_pod("refused", both).await.expect_err("refused")
    };
    let port = PortMapping { container_port: 80, host_port: 18_098, ..Default::default() };
    let with_port = |config: &mut PodSandboxConfig| config.port_mappings = vec![port.clone()];
    let with_sysctl = |config: &mut PodSandboxConfig| {
        let sysctls = &mut config.linux.get_or_insert_default().sysctls;
        sysctls.insert("net.core.somaxconn".to_owned(), "99".to_owned());
    };
    let in_another = format!("in the network of pod {} itself", target.id);
    let unknown = "0".repeat(64);
    type Change<'a> = &'a dyn Fn(&mut PodSandboxConfig);
    let cases: [(&str, Change<'_>, Code, &str); 8] = [
        ("", &|_| {}, Code::InvalidArgument, "target_id"),
        (&unknown, &|_| {}, Code::NotFound, "does not exist"),
        (&joined.id, &|_| {}, Code::InvalidArgument, &in_another),
        (&node.id, &|_| {}, Code::InvalidArgument, "ask for NODE"),
        (&with_users.id, &|_| {}, Code::InvalidArgument, "user namespace"),
        (&target.id, &mapped, Code::InvalidArgument, "user namespace"),
        (&target.id, &with_port, Code::InvalidArgument, "host port"),
        (&target.id, &with_sysctl, Code::InvalidArgument, "a network that is not the pod's own"),
    ];
    for (id, change, code, words) in cases {
        let status = refused(id, change).await;
        assert!(status.code() == code && status.message().contains(words), "{words}: {status:?}");
    }
}

/// A pod with a container in it: both ids, and the pid of the pod's monitor.
async fn in_a_pod(e2e: &Fixture, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> (String, String, i32) {
    let pod = e2e.pod_with(name, change).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let monitor = process::read(container.pid()).expect("it runs").parent;
    (pod.id.clone(), container.id.clone(), monitor)
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_nothing_and_harms_nobody() {
    let mut e2e = Fixture::own("target-crash").await;
    let points = e2e.agent().fault_points().expect("berth debug fault-points");
    let points = |verb: &str| points.iter().filter(|point| point.starts_with(verb)).cloned().collect::<Vec<_>>();
    let (joining, ending) = (points("run_pod."), points("stop_pod."));
    assert!(joining.len() >= 4 && ending.len() >= 4, "build the agent with --features fault-points");
    let before = after_first_use(&e2e).await;
    let (target, container, _) = in_a_pod(&e2e, "target", |_| {}).await;
    for point in joining {
        crash_at(&mut e2e, &point, async |e2e| drop(e2e.try_pod("crash", into(&target)).await)).await;
        assert_eq!(
            exec(&e2e, &container, "ip -o link show eth0 | wc -l").await,
            "1\n",
            "{point}: the target's is there"
        );
        let pods = e2e.client.list_pods(None).await.expect("list");
        for pod in pods.iter().filter(|pod| pod.id != target) {
            assert_eq!(point, "run_pod.ready", "made whole, or not at all");
            end(&e2e, &[&pod.id]).await;
        }
    }
    end(&e2e, &[&target]).await;
    nothing_more_than(&e2e, &before).await;
    for point in ending {
        let (target, ..) = in_a_pod(&e2e, "target", |_| {}).await;
        let (pod, container, _) = in_a_pod(&e2e, "inside", into(&target)).await;
        crash_at(&mut e2e, &point, async |e2e| drop(e2e.client.stop_pod(&target).await)).await;
        e2e.client.stop_pod(&target).await.expect("and again");
        assert_eq!(exec(&e2e, &container, "ip -o link | grep -v ' lo:' | wc -l").await, "0\n", "{point}");
        end(&e2e, &[&target, &pod]).await;
    }
    nothing_more_than(&e2e, &before).await;

    // The target's monitor dies while no agent looks: its addresses are given back, so nobody may go on using them.
    let (target, _, monitor) = in_a_pod(&e2e, "target", |_| {}).await;
    let (pod, container, _) = in_a_pod(&e2e, "inside", into(&target)).await;
    crash(&mut e2e, async || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).expect("killed");
        eventually("the monitor is gone", async || (!process::is_alive(monitor)).then_some(())).await;
    })
    .await;
    assert_eq!(
        exec(&e2e, &container, "ip -o link | grep -v ' lo:' | wc -l").await,
        "0\n",
        "the lost target's interface"
    );
    end(&e2e, &[&pod, &target]).await;
    nothing_more_than(&e2e, &before).await;
}
