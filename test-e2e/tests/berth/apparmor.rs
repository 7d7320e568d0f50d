//! AppArmor, where the kernel has it: `hack/test vm` runs these, and `--ignored apparmor::` on such a node.

use std::io::Write;
use std::process::{Command, Stdio};

use cri_api::v1;
use cri_api::v1::security_profile::ProfileType;
use test_e2e::fixture::Fixture;
use test_e2e::spec::{capabilities, profile, security};
use tonic::Code;

/// Denies one file. As in many people's first profile there is no rule for signals, so that the node's are refused, too.
const OWN: &str = "profile e2e-own flags=(attach_disconnected) {\n  file,\n  deny /tmp/denied rw,\n}\n";

const WHICH: &str = "cat /proc/self/attr/apparmor/current";

#[tokio::test]
#[ignore = "needs AppArmor in the kernel"]
async fn containers_and_execs_are_confined() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("apparmor").await;
    let start = async |name: &str, apparmor: Option<v1::SecurityProfile>| {
        pod.start_with(name, &["sh", "-c", &format!("{WHICH}; sleep 1000")], |config| {
            security(config).apparmor = apparmor;
            // With it a mount is only the profile's to refuse.
            security(config).capabilities = capabilities(&["SYS_ADMIN"], &[]);
        })
        .await
    };
    let mount = ["mount", "-t", "tmpfs", "none", "/tmp"];
    for (name, asked) in [("unsaid", None), ("default", profile(ProfileType::RuntimeDefault, ""))] {
        let container = start(name, asked).await;
        container.wait_for_line("berth-default (enforce)").await;
        assert_eq!(container.sh(WHICH).await, "berth-default (enforce)\n", "an exec of {name}");
        let refused = container.exec(&mount).await;
        assert!(refused.code != 0 && refused.stderr.contains("ermission denied"), "{refused:?}");
        container.sh("umount /sys/firmware; ! ls /sys/firmware").await;
        container.sh("sleep 500 & kill $!").await;
    }
    let container = start("unconfined", profile(ProfileType::Unconfined, "")).await;
    assert_eq!(container.sh(WHICH).await, "unconfined\n");
    assert_eq!(container.exec(&mount).await.code, 0);
}

#[tokio::test]
#[ignore = "needs AppArmor in the kernel"]
async fn a_profile_of_the_node_is_applied_and_one_that_is_not_loaded_refused() {
    let e2e = Fixture::shared().await;
    let mut parser = Command::new("/usr/sbin/apparmor_parser")
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("apparmor_parser");
    parser.stdin.take().expect("stdin").write_all(OWN.as_bytes()).expect("the profile");
    assert!(parser.wait().expect("apparmor_parser").success());
    let pod = e2e.pod("apparmor-local").await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            security(config).apparmor = profile(ProfileType::Localhost, "e2e-own");
            #[allow(deprecated)]
            "unconfined".clone_into(&mut security(config).apparmor_profile);
        })
        .await;
    assert_eq!(container.sh(WHICH).await, "e2e-own (enforce)\n");
    container.sh("touch /tmp/allowed && ! touch /tmp/denied").await;
    e2e.client.stop_container(&container.id, 1).await.expect("what hears no signal is killed by its cgroup");
    assert_eq!(container.status().await.exit_code, 137);
    let change = |config: &mut v1::ContainerConfig| {
        security(config).apparmor = profile(ProfileType::Localhost, "e2e-no-such");
    };
    let refused = pod.try_create("refused", &["true"], change).await.expect_err("it is not loaded");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("\"e2e-no-such\" is not loaded"), "{refused:?}");
}
