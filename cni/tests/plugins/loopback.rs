//! loopback, and what is the same for every plugin.

use cni::types::{Code, Command};
use serde_json::json;

use crate::support::{By, Host, code, ip, normal, own_host};

#[test]
fn lo_is_raised_as_by_debians_plugin() {
    own_host!(lo_is_raised_as_by_debians_plugin, |host: Host| {
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = json!({"cniVersion": version, "name": "lo", "type": "loopback"});
            let texts = [By::Debian, By::Exec, By::Call].map(|by| {
                let pod = host.pod("c1");
                let text = host.add_text(by, &pod, &config);
                assert!(pod.enter(|| ip("link show lo")).contains("LOOPBACK,UP"));
                host.del(by, &pod, &config);
                host.del(by, &pod, &config);
                assert!(!pod.enter(|| ip("link show lo")).contains("UP"));
                normal(&text, &pod)
            });
            // Debian's prints the form of 1.0.0 whatever the version.
            if version == "1.0.0" {
                assert_eq!(texts[0], texts[1]);
            }
            assert_eq!(texts[1], texts[2], "{version}");
        }
    });
}

#[test]
fn a_check_sees_that_lo_is_down() {
    own_host!(a_check_sees_that_lo_is_down, |host: Host| {
        let pod = host.pod("c1");
        let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
        let result = host.add(By::Exec, &pod, &config);
        host.check(By::Exec, &pod, &config, &result).unwrap();
        pod.enter(|| ip("link set lo down"));
        host.check(By::Exec, &pod, &config, &result).unwrap_err();
    });
}

#[test]
fn wrong_calls_have_the_specifications_codes() {
    own_host!(wrong_calls_have_the_specifications_codes, |host: Host| {
        let mut pod = host.pod("c1");
        let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
        let with = |more| crate::support::with(&config, more);
        for by in [By::Exec, By::Call] {
            let add = |config| code(host.run(by, Command::Add, Some(&pod), &config));
            assert_eq!(add(with(json!({"cniVersion": "9.0.0"}))), Some(Code::INCOMPATIBLE_VERSION));
            assert_eq!(add(with(json!({"name": "a/b"}))), Some(Code::INVALID_CONFIG));
            assert_eq!(add(with(json!({"prevResult": {"ips": 1}}))), Some(Code::DECODING));
            let nameless = code(host.run(by, Command::Add, None, &config));
            assert_eq!(nameless, Some(Code::INVALID_ENVIRONMENT));
            let early = with(json!({"cniVersion": "0.3.1"}));
            assert_eq!(code(host.run(by, Command::Check, Some(&pod), &early)), Some(Code::INCOMPATIBLE_VERSION));
            let versions = host.run(by, Command::Version, None, &config).unwrap();
            assert_eq!(
                versions,
                r#"{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
            );
        }
        pod.die();
        assert_eq!(code(host.run(By::Exec, Command::Add, Some(&pod), &config)), Some(Code::UNKNOWN_CONTAINER));
        host.del(By::Exec, &pod, &config);
    });
}
