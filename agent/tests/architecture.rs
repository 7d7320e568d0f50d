//! The house rules, read from the sources: which module may import which, where `unsafe` may stand, which crates stay
//! out of which module, and that every file says what it is.
//!
//! Imports point down only. A new edge is a decision: it is made here, with a reason, or not at all.

/// What a source file imports.
#[path = "architecture/imports.rs"]
mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use imports::{imports, strip};

/// A module, the modules of this crate it may import, and the crates it must not.
struct Rule {
    module: &'static str,
    may: &'static [&'static str],
    not: &'static [&'static str],
}

const fn rule(module: &'static str, may: &'static [&'static str], not: &'static [&'static str]) -> Rule {
    Rule { module, may, not }
}

/// What pure code does without: the kernel, the clock's executor, the wire.
const PURE: &[&str] = &["tokio", "tonic", "rustix", "nix", "libc"];
/// What runs without an executor. The monitor's memory is budgeted, and init runs between clone and execve.
const NO_RUNTIME: &[&str] = &["tokio", "tonic", "cri_api", "hyper", "tracing"];

/// As `NO_RUNTIME`, for what reads requests.
const NO_RUNTIME_BUT_CRI: &[&str] = &["tokio", "tonic", "hyper", "tracing"];

/// From the top down.
const RULES: &[Rule] = &[
    rule("bin::berth", &["cli"], &[]),
    rule("bin::berth-monitor", &["monitor::server"], NO_RUNTIME),
    // The command line puts the parts together, so it knows them all, but for the other process. Of the kernel it knows the heap
    // alone: how the agent allocates is settled before there is any part, and any thread.
    rule(
        "cli",
        &[
            "admin",
            "config",
            "cri",
            "fault",
            "image",
            "libcontainer::apparmor",
            "libcontainer::cgroup",
            "libcontainer::external",
            "libcontainer::host",
            "libcontainer::spec",
            "model",
            "monitor::client",
            "network",
            "nri",
            "oci",
            "ops",
            "state",
            "stream",
            "sys::memory",
            "telemetry",
        ],
        &[],
    ),
    // Each verb is a process of one thread that forks: no executor, and no agent, whose state is another.
    rule(
        "oci",
        &[
            "libcontainer::cgroup",
            "libcontainer::host",
            "libcontainer::plan",
            "libcontainer::run",
            "libcontainer::seccomp",
            "libcontainer::spec",
            "model",
            "sys",
        ],
        NO_RUNTIME,
    ),
    rule("admin", &["image", "model", "ops"], &[]),
    // Shows what lies below, and changes it through ops alone.
    rule("cri", &["image", "libcontainer::cgroup", "model", "ops", "state", "telemetry"], &["rustix", "nix", "libc"]),
    // Archives are put together as layers are.
    rule("checkpoint", &["image"], &["tonic", "tokio", "cri_api"]),
    // monitor::protocol only for the name and form of the exit record, which the monitor leaves in our folder.
    rule(
        "ops",
        &[
            "checkpoint",
            "fault",
            "image",
            "libcontainer::apparmor",
            "libcontainer::blockio",
            "libcontainer::cdi",
            "libcontainer::cgroup",
            "libcontainer::classes",
            "libcontainer::external",
            "libcontainer::host",
            "libcontainer::plan",
            "libcontainer::rdt",
            "libcontainer::run",
            "libcontainer::seccomp",
            "libcontainer::spec",
            "model",
            "monitor::client",
            "monitor::protocol",
            "network",
            "nri",
            "nri::message",
            "state",
            "stream",
            "sys",
            "telemetry",
        ],
        &["tonic"],
    ),
    rule("image", &["fault", "model", "sys", "sys::memory"], &["tonic"]),
    rule("network", &["fault", "model", "sys"], &["tonic"]),
    // Sockets and programs of plugins. It knows neither pods nor their state: ops tells it, and answers what plugins ask. The spec
    // is what its fuzz target has adjusted.
    rule("nri", &["libcontainer::spec", "nri::adjust", "nri::merge", "nri::message"], &["tonic", "nix", "libc"]),
    // What plugins want, put together, checked, and made edits of the spec.
    rule("nri::merge", &[], PURE),
    rule("nri::message", &["model"], PURE),
    rule("nri::adjust", &["libcontainer::spec", "model", "nri::message"], PURE),
    rule("state", &["fault", "model", "sys"], &["tonic"]),
    // Knows no pod and no container: what a client is joined to comes as descriptors and futures.
    rule("stream", &["model", "stream::spdy::codec", "stream::websocket::codec", "sys"], &["tonic", "cri_api"]),
    // The codecs: bytes in, frames out. What hostile bytes can reach is tested, and fuzzed, without a socket.
    rule("stream::spdy::codec", &[], &["tokio", "tonic", "rustix", "nix", "libc", "hyper"]),
    rule("stream::websocket::codec", &[], &["tokio", "tonic", "rustix", "nix", "libc", "hyper"]),
    rule("telemetry", &["config"], &["tonic"]),
    rule(
        "monitor::client",
        &["libcontainer::cgroup", "libcontainer::plan", "model", "monitor::protocol", "sys"],
        &["tonic", "cri_api"],
    ),
    rule(
        "monitor::server",
        &["libcontainer::plan", "libcontainer::run", "model", "monitor::protocol", "sys"],
        NO_RUNTIME,
    ),
    // The codec passes descriptors with its messages; it is the only one of the protocol that sees sys.
    rule("monitor::protocol", &["libcontainer::plan", "model", "sys"], NO_RUNTIME),
    rule("monitor", &[], NO_RUNTIME),
    rule("libcontainer::run", &["libcontainer::plan", "model", "sys"], NO_RUNTIME),
    rule("libcontainer::apparmor", &[], &["tokio", "tonic"]),
    rule("libcontainer::blockio", &[], NO_RUNTIME),
    rule("libcontainer::classes", &[], PURE),
    rule("libcontainer::rdt", &[], NO_RUNTIME),
    // Reads the vendors' files, and edits what spec has built.
    rule("libcontainer::cdi", &["libcontainer::spec", "model"], NO_RUNTIME_BUT_CRI),
    rule("libcontainer::external", &["libcontainer::plan", "libcontainer::spec"], PURE),
    rule("libcontainer::host", &["libcontainer::apparmor", "libcontainer::spec", "model", "sys"], &["tokio", "tonic"]),
    rule("libcontainer::cgroup", &["libcontainer::spec", "model", "sys"], &["tonic"]),
    rule("libcontainer::plan", &["libcontainer::seccomp", "libcontainer::spec", "model"], PURE),
    // Capabilities by name: profiles have conditions on them.
    rule("libcontainer::seccomp", &["libcontainer::spec", "model"], PURE),
    rule("libcontainer::spec", &["libcontainer::seccomp", "model"], PURE),
    rule("libcontainer", &[], NO_RUNTIME),
    rule("config", &[], PURE),
    rule("model", &[], PURE),
    rule("fault", &[], &["tokio", "tonic"]),
    // Doors of the fuzz targets: not there in an ordinary build. What they lead to stands in the parsers' own modules.
    rule(
        "fuzz",
        &[
            "image",
            "libcontainer::plan",
            "libcontainer::seccomp",
            "libcontainer::spec",
            "monitor::protocol",
            "monitor::server",
            "nri",
            "stream",
        ],
        &["tokio", "tonic"],
    ),
    rule("sys", &[], &["tonic", "cri_api"]),
    rule("sys::memory", &[], &["tokio", "tonic", "cri_api"]),
];

/// A source file of the agent.
struct Source {
    path: PathBuf,
    /// `libcontainer::plan::init_plan`; empty for the crate's root.
    module: Vec<String>,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

fn sources() -> Vec<Source> {
    let src = root().join("agent/src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(&src).expect("below src").with_extension("");
        let mut module: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        let text = fs::read_to_string(&path).expect("a source file");
        Source { path, module, text }
    };
    files.into_iter().map(source).collect()
}

/// The rule whose module is the longest beginning of this one.
fn rule_of(module: &[String]) -> Option<&'static Rule> {
    let begins = |rule: &&Rule| rule.module.split("::").zip(module).filter(|(a, b)| a == b).count();
    let whole = |rule: &&Rule| begins(rule) == rule.module.split("::").count();
    RULES.iter().filter(whole).max_by_key(begins)
}

/// The edges of a file that no rule allows.
fn forbidden(module: &[String], text: &str) -> Vec<String> {
    let Some(rule) = rule_of(module) else {
        return if module.is_empty() { vec![] } else { vec![format!("{} has no rule", module.join("::"))] };
    };
    let mut found = Vec::new();
    for import in imports(module, text) {
        let (root, path) = (import[0].as_str(), &import[1..]);
        if rule.not.contains(&root) {
            found.push(format!("{} imports the crate {root}", rule.module));
        }
        if root != "crate" && root != "berth" {
            continue;
        }
        let Some(to) = rule_of(path) else { continue };
        // A module's `fuzz` is a test of it: it takes its input apart as they all do.
        if to.module == "fuzz" && module.last().is_some_and(|last| last == "fuzz") {
            continue;
        }
        if to.module != rule.module && !rule.may.contains(&to.module) {
            found.push(format!("{} → {}", rule.module, to.module));
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        let edges = forbidden(&source.module, &source.text);
        wrong.extend(edges.into_iter().map(|edge| format!("{}: {edge}", source.path.display())));
    }
    assert!(wrong.is_empty(), "edges that design.md does not have:\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_about_a_module_that_can_be_there() {
    for rule in RULES {
        for to in rule.may {
            assert!(RULES.iter().any(|other| other.module == *to), "{} → {to}: no such module", rule.module);
        }
    }
}

/// `unsafe` has an address: the agent's `sys`, and the netlink sockets of `cni`.
#[test]
fn unsafe_code_stays_where_it_is_looked_for() {
    let allowed = ["agent/src/sys/", "agent/src/sys.rs", "cni/src/netlink"];
    let mut files = Vec::new();
    for dir in ["agent", "cni/src", "cri-api/src", "nri-api/src", "test-e2e/src"] {
        rust_files(&root().join(dir), &mut files);
    }
    let mut wrong = Vec::new();
    for path in files {
        let relative = path.strip_prefix(root()).expect("of the workspace").to_string_lossy().into_owned();
        let code = strip(&fs::read_to_string(&path).expect("a source file"));
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.into_iter().any(|word| word == "unsafe") && !allowed.iter().any(|place| relative.starts_with(place)) {
            wrong.push(relative);
        }
    }
    assert!(wrong.is_empty(), "`unsafe` outside {allowed:?}: {wrong:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let mut files = Vec::new();
    for dir in ["agent", "cni", "cri-api", "nri-api", "test-e2e"] {
        rust_files(&root().join(dir), &mut files);
    }
    let silent: Vec<_> =
        files.into_iter().filter(|path| !opens_well(&fs::read_to_string(path).expect("a file"))).collect();
    assert!(silent.is_empty(), "these do not open with //! (what it is, who calls it): {silent:?}");
}

fn opens_well(text: &str) -> bool {
    // A script of tests may need an inner attribute first.
    text.lines().find(|line| !line.starts_with("#![")).is_some_and(|line| line.starts_with("//! "))
}

/// cni and cri-api are crates that others can use, and the end-to-end tests must not know what they test.
#[test]
fn crates_depend_down() {
    for (krate, not) in [
        ("cni", &["berth", "cri-api", "tokio", "tonic"][..]),
        ("cri-api", &["berth", "cni", "nri-api"][..]),
        ("nri-api", &["berth", "cni", "cri-api", "tokio", "tonic"][..]),
        ("test-e2e", &["berth", "cni"][..]),
    ] {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a manifest");
        let sections = manifest.split("\n[").filter(|section| {
            let name = section.trim_start_matches('[').split(']').next().unwrap_or_default();
            name.ends_with("dependencies") || name.contains("dependencies.")
        });
        for line in sections.flat_map(str::lines) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(!not.contains(&name), "{krate} depends on {name}");
        }
    }
}

/// docs/conformance.md maps what kubelet relies on to tests: a test that was renamed or taken away is missed there.
#[test]
fn every_test_of_the_conformance_page_is_there() {
    let mut files = Vec::new();
    for dir in ["agent", "test-e2e"] {
        rust_files(&root().join(dir), &mut files);
    }
    let sources: String = files.iter().map(|path| fs::read_to_string(path).expect("a source file")).collect();
    let page = fs::read_to_string(root().join("docs/conformance.md")).expect("the page");
    let rules = page.lines().filter_map(|line| line.strip_prefix("| ")).filter(|row| row.starts_with(char::is_numeric));
    let mut named = 0;
    for row in rules {
        let tests = row.rsplit(" | ").next().unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2).filter_map(|path| path.rsplit("::").next()) {
            named += 1;
            assert!(
                name.is_empty() || sources.contains(&format!("fn {name}(")) || sources.contains(&format!("mod {name}")),
                "{name}: {row}"
            );
        }
    }
    assert!(named > 90, "{named} tests are named");
}

/// The proof that the tests above can fail.
mod proof {
    use super::*;

    fn of(module: &str, text: &str) -> Vec<String> {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        forbidden(&module, text)
    }

    #[test]
    fn an_upward_import_is_seen_however_it_is_written() {
        let edge = ["libcontainer::plan → sys".to_owned()];
        for text in [
            "use crate::sys::mount;",
            "use crate::{model::Digest, sys::mount::open_tree};",
            "use crate::{\n    model,\n    sys,\n};",
            "fn f() { crate::sys::mount::open() }",
            "use super::super::super::sys::mount;",
            "pub(crate) use crate :: sys::x as y;",
        ] {
            assert_eq!(of("libcontainer::plan::init_plan", text), edge, "{text}");
        }
    }

    #[test]
    fn a_forbidden_crate_is_seen() {
        assert_eq!(of("monitor::server::log", "use tokio::sync::mpsc;"), ["monitor::server imports the crate tokio"]);
        assert_eq!(of("model::pod", "fn f() { rustix::process::getpid(); }"), ["model imports the crate rustix"]);
        assert_eq!(of("monitor::client", "use tokio::sync::mpsc;"), [""; 0]);
    }

    #[test]
    fn what_is_allowed_passes_and_text_is_no_code() {
        assert_eq!(of("ops::run_pod", "use crate::image::ImageStore; use super::Engine;"), [""; 0]);
        assert_eq!(
            of("model", "// use crate::ops::Engine;\n/* crate::ops */ const S: &str = \"crate::ops\";"),
            [""; 0]
        );
        assert_eq!(of("model", "#[cfg(test)]\nmod tests {\n    use crate::ops::Engine;\n}\n"), [""; 0]);
        assert_eq!(of("model", "#[cfg(test)]\nmod tests;\nuse crate::ops::Engine;"), ["model → ops"]);
    }

    #[test]
    fn a_new_module_needs_a_rule() {
        assert_eq!(of("utils", ""), ["utils has no rule"]);
    }

    #[test]
    fn unsafe_in_a_comment_or_a_name_is_none() {
        assert!(!strip("// unsafe\nlet x = \"unsafe\"; '\\''").contains("unsafe"));
        assert!(strip("unsafe { libc::getpid() }").contains("unsafe"));
    }
}
