//! A real systemd as the init: `hack/test vm` runs these, and `--ignored systemd::` on a machine to spare, whose berth.service they take.
//! The second is the only agent of the machine, as it is installed; it needs no `Fixture`.

use std::path::{Path, PathBuf};
use std::process::Command;

use cri_api::v1;
use test_e2e::client::Client;
use test_e2e::cri_log::{Log, Stream};
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::host::sibling_binary;
use test_e2e::spec::{self, resources};
use test_e2e::{image, process};

const IMAGE: &str = "e2e/busybox:1";
const UNITS: &str = "/run/systemd/system";
const SOCKET: &str = "/run/berth/berth.sock";

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().expect("systemctl");
    String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

#[tokio::test]
#[ignore = "needs systemd as the init"]
async fn a_container_is_a_scope_in_its_pods_slice() {
    assert!(test_e2e::machine::with_systemd(), "E2E_CGROUP_DRIVER=systemd is not set");
    let e2e = Fixture::shared().await;
    let uid = format!("{}_e2e", std::process::id());
    let slice = format!("kubepods-besteffort-pod{uid}.slice");
    let pod = e2e.pod_with("slices", |config| config.linux.get_or_insert_default().cgroup_parent = slice.clone()).await;
    let change = |config: &mut v1::ContainerConfig| {
        let resources = resources(config);
        resources.memory_limit_in_bytes = 64 << 20;
        resources.cpu_shares = 512;
        (resources.cpu_quota, resources.cpu_period) = (50_000, 100_000);
        resources.unified = [("pids.max".to_owned(), "100".to_owned())].into();
    };
    let container = pod.start_with("main", &["sleep", "1000"], change).await;
    let unit = format!("berth-{}.scope", container.id);
    let table = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("cgroup");
    let folder = format!("kubepods.slice/kubepods-besteffort.slice/{slice}/{unit}");
    assert_eq!(table.trim(), format!("0::/{folder}"));
    assert_eq!(property(&unit, "Slice"), slice);
    for (name, value) in [
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("TasksMax", "100"),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    // systemd writes anew what it knows; nothing else may be lost by it.
    systemctl(&["daemon-reload"]);
    let read = |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(&folder).join(file)).expect(file);
    assert_eq!(
        ["memory.max", "cpu.max", "pids.max"].map(|file| read(file).trim().to_owned()),
        ["67108864", "50000 100000", "100"]
    );
    let change = v1::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    e2e.client.update_resources(&container.id, change).await.expect("update");
    systemctl(&["daemon-reload"]);
    assert_eq!((property(&unit, "MemoryMax").as_str(), read("memory.max").trim()), ("100663296", "100663296"));
    assert_ne!(container.exec(&["sh", "-c", "mknod /dev/sda b 8 0 && cat /dev/sda"]).await.code, 0);
    assert_eq!(container.sh("echo here").await, "here\n");

    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    e2e.client.remove_container(&container.id).await.expect("remove");
    eventually("systemd has forgotten the scope", async || (property(&unit, "LoadState") == "not-found").then_some(()))
        .await;
    assert!(!Path::new("/sys/fs/cgroup").join(&folder).exists());
}

#[tokio::test]
#[ignore = "needs systemd as the init"]
async fn an_oom_kill_is_told_though_systemd_was_faster() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("oom");
    let slice = e2e.machine.cgroup_parent(Some("oom"));
    let pod = e2e.pod_with("oom-scope", |config| config.linux.get_or_insert_default().cgroup_parent = slice).await;
    let script = "until [ -e /v/go ]; do sleep 0.1; done; exec tail /dev/zero";
    let container = pod
        .start_with("main", &["sh", "-c", script], |config| {
            resources(config).memory_limit_in_bytes = 24 << 20;
            config.mounts = vec![spec::bind(&folder, "/v", true)];
        })
        .await;
    let pid = container.pid();
    let monitor = nix::unistd::Pid::from_raw(process::read(pid).expect("it runs").parent);
    let scope = process::cgroup(pid, "memory").expect("cgroup");
    // A monitor that does not get the processor in time.
    nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGSTOP).expect("stop the monitor");
    std::fs::write(folder.join("go"), "").expect("go");
    eventually("systemd has removed the scope", async || (!scope.exists()).then_some(())).await;
    nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGCONT).expect("let the monitor go on");
    let status = container.wait_exit().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

/// Installs the units as a package would, but for where the programs are.
fn install(config: &Path) -> PathBuf {
    let berth = sibling_binary("berth").expect("berth");
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/packaging");
    for unit in ["berth.service", "berth.socket"] {
        let text = std::fs::read_to_string(packaging.join(unit)).expect(unit);
        let command = format!("{} serve --config {}", berth.display(), config.display());
        std::fs::write(Path::new(UNITS).join(unit), text.replace("/usr/bin/berth serve", &command)).expect(unit);
    }
    systemctl(&["daemon-reload"]);
    berth
}

async fn import(berth: &Path, folder: &Path) {
    let built = image::busybox(image::Format::Oci).expect("busybox").build();
    let archive = folder.join("image.tar");
    std::fs::write(&archive, image::archive::oci_archive(&built).expect("archive")).expect("archive");
    let mut command = Command::new(berth);
    let imported = command.args(["image", "import", "--name", IMAGE]).arg(&archive).status().expect("import");
    assert!(imported.success(), "{}", systemctl(&["status", "berth.service"]));
}

#[tokio::test]
#[ignore = "needs systemd as the init, and takes berth.service"]
async fn the_service_starts_by_its_socket_and_its_pods_outlive_it() {
    let folder = std::env::temp_dir().join(format!("berth-e2e-service-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let config = folder.join("config.yaml");
    std::fs::write(&config, "cgroups: {driver: systemd}\n").expect("config");
    let berth = install(&config);
    assert_eq!(systemctl(&["start", "berth.socket"]), "");
    assert_eq!(systemctl(&["is-active", "berth.service"]), "inactive");
    import(&berth, &folder).await;
    assert_eq!(systemctl(&["is-active", "berth.service"]), "active", "somebody called");
    assert_eq!(property("berth.service", "StatusText"), "ready", "and it has told that it is up");
    let main = property("berth.service", "MainPID");
    let client = Client::connect(&format!("unix://{SOCKET}")).await.expect("connect");

    let pod_config = spec::pod("service", &folder);
    std::fs::create_dir_all(&pod_config.log_directory).expect("logs");
    let log = Path::new(&pod_config.log_directory).join("main.log");
    let pod = client.run_pod(pod_config.clone()).await.expect("run");
    let script = ["sh", "-c", "echo up; trap exit TERM; while :; do sleep 1; done"];
    let container = spec::container("main", IMAGE, &script);
    let container = client.create_container(&pod, container, pod_config).await.expect("create");
    client.start_container(&container).await.expect("start");
    eventually("it writes", async || {
        let written = Log::read(&log).written(Stream::Stdout).expect("a log");
        written.starts_with(b"up\n").then_some(())
    })
    .await;

    // Whatever ends the agent, its pods go on, and it knows them when it is back.
    for command in [["kill", "--kill-who=main", "--signal=KILL"].as_slice(), &["restart"], &["stop"]] {
        systemctl(&[command, &["berth.service"]].concat());
        if command == ["stop"] {
            assert_eq!(systemctl(&["is-active", "berth.service"]), "inactive");
        }
        let client = eventually("the socket answers", async || {
            let client = Client::connect(&format!("unix://{SOCKET}")).await.ok()?;
            client.version().await.ok().map(|_| client)
        })
        .await;
        assert_ne!(property("berth.service", "MainPID"), main, "{command:?}");
        let status = client.container_status(&container).await.expect("status");
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning, "{command:?}");
        assert_eq!(client.exec(&container, &["echo", "here"], 10).await.expect("exec").stdout.as_ref(), b"here\n");
    }
    let scope = format!("berth-{container}.scope");
    assert_eq!(property(&scope, "Slice"), "berth.slice");
    let monitors = property("berth-monitors.scope", "ControlGroup");
    assert_eq!(monitors, "/system.slice/berth-monitors.scope");
    let agent: i32 = property("berth.service", "MainPID").parse().expect("pid");
    let agents = process::cgroup(agent, "").expect("cgroup");
    assert!(agents.ends_with("system.slice/berth.service"), "{agents:?}");

    let client = Client::connect(&format!("unix://{SOCKET}")).await.expect("connect");
    client.stop_pod(&pod).await.expect("stop");
    client.remove_pod(&pod).await.expect("remove");
    assert_eq!(systemctl(&["stop", "berth.service", "berth.socket"]), "");
    eventually("nothing of it is left", async || (property(&scope, "LoadState") == "not-found").then_some(())).await;
    std::fs::remove_dir_all(&folder).expect("folder");
}
