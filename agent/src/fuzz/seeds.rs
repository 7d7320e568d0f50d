//! What the targets begin with: small inputs that reach far into a parser, made here so that nobody keeps files of bytes.

use super::{
    challenge, hosts, log_lines, manifest, monitor, nri, passwd, reference, seccomp, spdy, tar_apply, tar_read,
    websocket,
};

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

/// Every target, the one that a stranger reaches most easily first.
pub const TARGETS: [Target; 13] = [
    Target { name: "tar_apply", run: tar_apply, seeds: layers },
    Target { name: "tar_read", run: tar_read, seeds: archives },
    Target { name: "spdy", run: spdy, seeds: spdy_frames },
    Target { name: "websocket", run: websocket, seeds: websocket_frames },
    Target { name: "manifest", run: manifest, seeds: manifests },
    Target { name: "passwd", run: passwd, seeds: accounts },
    Target { name: "monitor", run: monitor, seeds: messages },
    Target { name: "nri", run: nri, seeds: plugins },
    Target { name: "reference", run: reference, seeds: references },
    Target { name: "challenge", run: challenge, seeds: challenges },
    Target { name: "hosts", run: hosts, seeds: host_files },
    Target { name: "seccomp", run: seccomp, seeds: profiles },
    Target { name: "log_lines", run: log_lines, seeds: outputs },
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

const DIGEST: &str = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";

/// Bytes before a text.
fn after(choices: &[u8], text: impl AsRef<[u8]>) -> Vec<u8> {
    [choices, text.as_ref()].concat()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        // a/b, a file in it, a link to it and a file through the link.
        vec![1, 0x12, 0, 0, 0x12, 0x30, 2, 0x40, 0, 0x10, 0, 0, 0x42, 0x30],
        // A file, a hard link to it, a whiteout of it and an opaque folder.
        vec![0, 0x10, 0, 3, 0x20, 0, 0x10, 0, 0, 0x90, 0, 0, 0x1b, 0],
        // Links that climb and that lead outside, and entries through them.
        vec![2, 0x10, 0, 0x77, 0, 0, 0x1e, 0, 5, 0x10, 0, 0xff, 1, 1, 0x12, 0],
        // Modes, owners, attributes and devices.
        vec![0x18, 0x10, 0, 0xff, 1, 2, 0x1e, 0x20, 0, 3, 0, 0],
        // What a path leads through changes while it is in use.
        vec![1, 0x12, 0, 2, 0x40, 0, 0x10, 0, 0, 0x42, 0x30, 1, 0x40, 0, 0, 0x42, 0x10],
    ]
}

fn archives() -> Vec<Vec<u8>> {
    let header = |name: &[u8], kind: u8, size: usize, link: &[u8]| {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0001750");
        block[116..123].copy_from_slice(b"0001750");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"14000000000");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[329..336].copy_from_slice(b"0000001");
        block[337..344].copy_from_slice(b"0000003");
        block.to_vec()
    };
    let padded = |text: &[u8]| {
        let mut text = text.to_vec();
        text.resize(text.len().next_multiple_of(512), 0);
        text
    };
    let records = b"22 path=a/longer/name\n13 uid=70000\n20 mtime=1700.250001\n27 SCHILY.xattr.user.x=one\n";
    let map = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=s\n28 GNU.sparse.realsize=4096\n";
    let mut old_sparse = header(b"sparse", b'S', 4, b"");
    old_sparse[386..398].copy_from_slice(b"00000000000\0");
    old_sparse[398..410].copy_from_slice(b"00000000004\0");
    old_sparse[483..495].copy_from_slice(b"00000010000\0");
    vec![
        after(&[0], [header(b"d/", b'5', 0, b""), header(b"d/f", b'0', 3, b""), padded(b"abc")].concat()),
        after(
            &[1],
            [header(b"l", b'2', 0, b"d/f"), header(b"h", b'1', 0, b"d/f"), header(b"n", b'3', 0, b"")].concat(),
        ),
        after(&[2], [header(b"x", b'x', records.len(), b""), padded(records), header(b"f", b'0', 0, b"")].concat()),
        after(
            &[3],
            [
                header(b"L", b'L', 12, b""),
                padded(b"a-long-name\0"),
                header(b"K", b'K', 3, b""),
                padded(b"to\0"),
                header(b"f", b'2', 0, b""),
            ]
            .concat(),
        ),
        after(
            &[0],
            [
                header(b"x", b'x', map.len(), b""),
                padded(map),
                header(b"s", b'0', 516, b""),
                padded(b"1\n0\n4\n"),
                padded(b"data"),
            ]
            .concat(),
        ),
        after(&[1], [old_sparse, padded(b"data"), vec![0; 1024]].concat()),
    ]
}

fn spdy_frames() -> Vec<Vec<u8>> {
    let stream = after(&[0, 0, 1, 1], [&[10][..], b"streamtype", &[6], b"stdout"].concat());
    vec![
        after(&[0], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
        after(&[2], [&[0, 0, 0, 1, 1, 0, 0, 5][..], b"hello"].concat()),
        after(&[4], [0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]),
        after(&[6], [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0, 0]),
        after(&[8], [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]),
        after(&[1], &stream),
        after(&[5], [&stream[..], &[2, 1, 3, 0x21, 200, 1, b'a', 200], &[b'x'; 200], &stream].concat()),
        after(&[3], [&[5, 1, 7, 4][..], b"data", &[3, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 9]].concat()),
    ]
}

fn plugins() -> Vec<Vec<u8>> {
    // A registration, an answer with an error, and a packet of another connection.
    let call = [
        &[0, 0, 0, 2, 0, 0, 0, 26, 0, 0, 0, 16, 0, 0, 0, 1, 1, 0, 0x0a, 1, b's', 0x12, 1, b'm', 0x1a, 8][..],
        b"\x0a\x01x\x12\x0207",
    ]
    .concat();
    let error = [0, 0, 0, 1, 0, 0, 0, 17, 0, 0, 0, 7, 0, 0, 0, 3, 2, 0, 0x0a, 5, 8, 2, 0x12, 1, b'n'];
    let other = [0, 0, 0, 9, 0, 0, 0, 2, 1, 2];
    // env A=1, then args and a mount, then env -A.
    let env = b"\x0a\x08\x22\x06\x0a\x01A\x12\x011";
    let more = b"\x0a\x0f\x4a\x02sh\x1a\x09\x0a\x02/x\x1a\x03/yz";
    vec![
        after(&[0], [&call[..], &error, &other].concat()),
        after(&[1], [&error[..], &call[..20]].concat()),
        after(&[2], [&other[..], &[0, 0, 0, 1, 0xff, 0, 0, 0]].concat()),
        after(&[3, 1], env),
        after(&[3, 0, 2], more),
    ]
}

fn websocket_frames() -> Vec<Vec<u8>> {
    let hello = [0x82, 0x86, 1, 2, 3, 4, 1, 2 ^ b'h', 3 ^ b'e', 4 ^ b'l', 1 ^ b'l', 2 ^ b'o'];
    vec![
        after(&[0], hello),
        after(&[2], [&hello[..], &[0x82, 0x82, 0, 0, 0, 0, 255, 0, 0x88, 0x80, 0, 0, 0, 0]].concat()),
        after(
            &[12],
            [&[0x01, 0x83, 0, 0, 0, 0][..], b"0aG", &[0x89, 0x80, 0, 0, 0, 0, 0x80, 0x82, 0, 0, 0, 0], b"k="].concat(),
        ),
        after(
            &[6],
            [&[0x82, 0xfe, 0, 4, 9, 9, 9, 9, 1, 2, 3, 4][..], &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7]]
                .concat(),
        ),
        after(&[1], [0, 1, 2, 3, 4, 0, 0, 3, 7, 8, 9, 1, 4, 3, 2, 1, 200, 9, 2, 5, 6]),
        after(&[13], [4, 1, 1, 1, 1, 2, 0, 5, 1, 2, 3, 4, 5]),
        after(&[15], [0, 0, 0, 0, 0, 255, 255, 4, 1, 2, 3, 4]),
    ]
}

fn manifests() -> Vec<Vec<u8>> {
    let descriptor = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":7}}"#);
    let (config, layer) = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip");
    let file = format!(
        r#"{{"mediaType":"text/plain","digest":"{DIGEST}","size":7,"annotations":{{"org.opencontainers.image.title":"a/b.txt"}}}}"#
    );
    let manifest =
        |config: String, layer: String| format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
    vec![
        after(&[1], manifest(descriptor(config), descriptor(layer))),
        after(&[0], manifest(descriptor("application/vnd.oci.empty.v1+json"), file)),
        after(
            &[2],
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{DIGEST}","size":9,"platform":{{"os":"linux","architecture":"amd64","variant":"v2"}}}}]}}"#
            ),
        ),
        after(&[0], r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}"#),
        after(
            &[0],
            format!(
                r#"{{"architecture":"amd64","os":"linux","config":{{"User":"1000:1000","Env":["PATH=/bin"],"Cmd":["sh"],"Volumes":{{"/v":{{}}}},"Labels":{{"a":"b"}},"StopSignal":"SIGTERM"}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
            ),
        ),
    ]
}

fn accounts() -> Vec<Vec<u8>> {
    let files = b"root:x:0:0:root:/root:/bin/sh\nweb:x:2:3::/srv:/bin/false\n\0root:x:0:\nweb:x:3:\nlog:x:4:root,web\n";
    let nothing = [0; 12];
    vec![
        [&[0][..], &nothing, b"web\0", files].concat(),
        [&[4][..], &nothing, b"web\0\0", files].concat(),
        [&[0][..], &nothing, b"2:log\0", files].concat(),
        [&[11][..], &[4, 0, 0, 0, 6, 0, 0, 0, 8, 0, 0, 0], b"root\0", files].concat(),
        [&[32][..], &nothing, b"4294967295\0", files].concat(),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    use prost::Message;

    use crate::libcontainer::plan::{InitPlan, ProcessPlan};
    use crate::monitor::protocol::{
        Answer, Body, Call, ContainerExited, Create, ExitRecord, Failure, Request, Stop, exit_file,
    };
    let process = ProcessPlan { env: vec![b"A=b".to_vec()], ..ProcessPlan::default() };
    let plan = InitPlan { process, ..InitPlan::default() };
    let create = Call::Create(Create { plan, record_dir_fd: 1, ..Create::default() });
    let stop = Call::Stop(Stop { id: "c".repeat(64), signal: 15, grace_ms: 30_000 });
    let record = ExitRecord { exit_code: 137, signal: 9, oom_killed: true, finished_at_ns: 2, started_at_ns: 1 };
    let exited = Body::ContainerExited(ContainerExited { id: "c".to_owned(), record: record.clone() });
    let failure = Body::Failure(Failure { kind: 1, step: "mount".to_owned(), path: "/a".to_owned(), errno: 2 });
    let request = |call| Request { id: 7, call: Some(call) }.encode_to_vec();
    let answer = |body| Answer { id: 7, body: Some(body) }.encode_to_vec();
    vec![
        after(&[0], request(create)),
        after(&[2], request(stop)),
        after(&[1], answer(exited)),
        after(&[1], answer(failure)),
        after(&[3], exit_file::encode(&record)),
    ]
}

fn references() -> Vec<Vec<u8>> {
    ["busybox", "localhost:5000/a/b_c:t.1", "[2001:db8::1]:5000/x--y:z", "index.docker.io/redis", "R.io/x"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("r.io/x:v1@{DIGEST}")])
        .map(String::into_bytes)
        .collect()
}

fn challenges() -> Vec<Vec<u8>> {
    [
        r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#,
        r#"Negotiate, BASIC realm = "a \"b\"" , Bearer Realm=https://x/t , service=s"#,
        "Basic dGVzdA==",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn host_files() -> Vec<Vec<u8>> {
    let full = r#"server = "https://registry.example"
ca = "ca.crt"
[host."http://127.0.0.1:5055"]
capabilities = ["pull", "resolve"]
skip_verify = true
override_path = true
dial_timeout = "1.5s"
client = [["a.cert", "a.key"]]
[host."mirror.example/v2".header]
x-a = ["b", "c"]
"#;
    vec![after(&[0], full), after(&[1], "[host.\"[::1]:5000\"]\nclient = \"both.pem\"\n"), after(&[2], "")]
}

fn profiles() -> Vec<Vec<u8>> {
    let rules = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],"syscalls":[{"names":["read","write","clone3"],"action":"SCMP_ACT_ALLOW"},{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}],"excludes":{"caps":["CAP_SYS_ADMIN"]}},{"name":"socket","action":"SCMP_ACT_LOG","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"},{"index":2,"value":3,"op":"SCMP_CMP_GT"}],"includes":{"minKernel":"4.8","arches":["amd64"]}}]}"#;
    let plain = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_ARM","SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["open","openat"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_GE"},{"index":1,"value":7,"op":"SCMP_CMP_LT"}]},{"names":["open"],"action":"SCMP_ACT_TRAP"}]}"#;
    vec![after(&[0, 0, 0, 0, 0, 5], rules), after(&[1, 0, 0, 0x20, 0, 6], plain), after(&[0, 0, 0, 0x20, 0, 6], plain)]
}

fn outputs() -> Vec<Vec<u8>> {
    let cuts = |first: u32, second: u32, times: u32| [first, second, times].map(u32::to_le_bytes).concat();
    vec![
        after(&cuts(0, 0, 0), "hello\nworld"),
        after(&cuts(16_383, 1, 200), [b"x".repeat(300), b"\n".to_vec()].concat()),
        after(&cuts(39_999, 299, 399), [b'y'; 97]),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TARGETS;

    /// It writes files of every owner: only for root, and `hack/fuzz` is where it runs.
    fn needs_root(name: &str) -> bool {
        name == "tar_apply"
    }

    #[test]
    fn every_target_holds_on_its_seeds() {
        for target in TARGETS.iter().filter(|target| !needs_root(target.name)) {
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
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_target_holds_on_damaged_seeds(at: prop::sample::Index, byte: u8, which: prop::sample::Index) {
            for target in TARGETS.iter().filter(|target| !needs_root(target.name)) {
                let seeds = (target.seeds)();
                let mut seed = seeds[which.index(seeds.len())].clone();
                if !seed.is_empty() {
                    let at = at.index(seed.len());
                    seed[at] = byte;
                }
                (target.run)(&seed);
            }
        }
    }
}
