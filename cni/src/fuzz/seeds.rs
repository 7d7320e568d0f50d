//! What the targets begin with: small inputs that reach far into a parser, made here so that nobody keeps files of bytes.

use super::{cni_args, cni_result, conf_list, leases};

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As `hack/fuzz` names it.
    pub name: &'static str,
    /// Its door.
    pub run: fn(&[u8]),
    /// Its seeds.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 4] = [
    Target { name: "conf_list", run: conf_list, seeds: lists },
    Target { name: "cni_result", run: cni_result, seeds: results },
    Target { name: "cni_args", run: cni_args, seeds: arguments },
    Target { name: "leases", run: leases, seeds: folders },
];

/// Writes a target's seeds into the folder that `FUZZ_SEEDS` names, and ends the process then.
pub fn write_if_asked(name: &str) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this file");
    for (n, seed) in (target.seeds)().iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{n}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    std::process::exit(0);
}

/// A byte before a text.
fn after(choice: u8, text: &str) -> Vec<u8> {
    [&[choice], text.as_bytes()].concat()
}

fn lists() -> Vec<Vec<u8>> {
    let bridge = r#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"],"name":"pods","disableCheck":"true","disableGC":false,
        "plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"capabilities":{"ips":true,"portMappings":true},
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.20"}],
        [{"subnet":"fd00:1::/64","gateway":"fd00:1::1"}]],"routes":[{"dst":"0.0.0.0/0"}],"dataDir":"/run/x"}},
        {"type":"portmap","runtimeConfig":{"a":1},"prevResult":{}}]}"#;
    let single = r#"{"name":"n","type":"ptp","ipam":{"subnet":"10.2.0.0/16","gateway":"10.2.0.1"},
        "runtimeConfig":{"ipRanges":[[{"subnet":"10.3.0.0/30"},{"subnet":"10.3.1.0/30"}]],"mac":"02:00:00:00:00:01"},
        "args":{"cni":{"ips":["10.2.0.9/16"]}}}"#;
    vec![after(0, bridge), after(255, bridge), after(6, single), after(1, r#"{"name":"n","plugins":[{"type":"x"}]}"#)]
}

fn results() -> Vec<Vec<u8>> {
    let newest = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"sandbox":"/n",
        "socketPath":"/s","pciID":"p"}],"ips":[{"interface":0,"address":"10.1.0.5/24","gateway":"10.1.0.1"}],
        "routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1","mtu":1400,"advmss":1360,"priority":1,"table":2,"scope":0}],
        "dns":{"nameservers":["10.1.0.1"],"domain":"d","search":["s"],"options":["o"]}}"#;
    let families = r#"{"cniVersion":"0.4.0","interfaces":null,"ips":[{"version":"4","interface":-1,"address":"10.1.0.5/24"},
        {"version":"6","address":"fd00::5/64","gateway":"fd00::1"}],"routes":[{"dst":"::/0"}],"dns":{}}"#;
    let pair = r#"{"ip4":{"ip":"10.1.0.5/24","gateway":"10.1.0.1","routes":[{"dst":"10.0.0.0/8"}]},"ip6":{"ip":"fd00::5/64"}}"#;
    let error = r#"{"cniVersion":"1.0.0","code":7,"msg":"bad","details":"very"}"#;
    vec![after(6, newest), after(0, newest), after(4, families), after(0, pair), after(1, pair), after(7, error)]
}

fn arguments() -> Vec<Vec<u8>> {
    let pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a=b;IP=10.1.0.5;";
    [pod, "net-1", "eth0", "A=;;B= c"].map(|text| text.as_bytes().to_vec()).into()
}

fn folders() -> Vec<Vec<u8>> {
    // Which pool and which of its addresses are asked for; then names and texts, each to its NUL.
    vec![
        [&[0, 2][..], b"10.1.0.2\0owner\r\neth0\x0010.1.0.3\0\0last_reserved_ip.0\x0010.1.0.2\0lock\0\0"].concat(),
        [&[1, 3][..], b"fd00:1::2\0owner\n\0fd00:1:0::3\0x\0last_reserved_ip.0\0fd00:1::6"].concat(),
        [&[2, 0][..], b"last_reserved_ip.9\0z\0last_reserved_ip.0\0\xff\x0010.1.0.9\0\xff"].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TARGETS;

    #[test]
    fn every_target_holds_on_its_seeds() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for seed in &seeds {
                (target.run)(seed);
                (target.run)(&seed[..seed.len() / 2]);
            }
            (target.run)(&[]);
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_target_holds_on_damaged_seeds(at: prop::sample::Index, byte: u8, which: prop::sample::Index) {
            for target in TARGETS {
                let seeds = (target.seeds)();
                let mut seed = seeds[which.index(seeds.len())].clone();
                let at = at.index(seed.len());
                seed[at] = byte;
                (target.run)(&seed);
            }
        }
    }
}
