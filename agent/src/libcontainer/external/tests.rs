//! Bundles compared as data.

use cri_api::v1::{Mount as CriMount, MountPropagation, NamespaceMode, NamespaceOption};

use super::*;
use crate::libcontainer::plan::Upper;
use crate::libcontainer::spec::Hierarchy;
use crate::libcontainer::spec::tests::Fixture;

fn bundle_of(fixture: &Fixture) -> Result<External, PlanError> {
    let plan = PlanInput {
        layers: vec!["/layers/top".into()],
        upper: Some(Upper { upper: "/c/upper".into(), work: "/c/work".into(), volatile: true }),
        image_volumes: &[],
        filter: None,
        stdin: true,
        stdin_once: false,
        host: &fixture.host,
    };
    let annotations =
        HashMap::from([("io.pod/a".to_owned(), "1".to_owned()), ("run.oci.x".to_owned(), "2".to_owned())]);
    external(
        &fixture.build().unwrap(),
        &ExternalInput {
            plan: &plan,
            folder: Path::new("/run/b/c/oci"),
            annotations: &annotations,
            allowed: &["io.pod/*".to_owned()],
            features: &Features::default(),
        },
    )
}

/// What is mounted for the runtime, a line each.
fn placed(bundle: &External) -> Vec<String> {
    let steps = bundle.plan.init.steps.iter().map(|step| match step.action.as_ref().unwrap() {
        Action::MoveMount(MoveMount { source, target }) => match source.as_ref().unwrap() {
            MountSource::Fd(fd) => format!("fd{fd} {target}"),
            MountSource::Pod(name) => format!("{name} {target}"),
        },
        other => panic!("{other:?}"),
    });
    steps.collect()
}

fn mount<'a>(bundle: &'a External, target: &str) -> &'a Mount {
    let mounts = bundle.config.mounts().as_ref().unwrap();
    mounts.iter().find(|mount| mount.destination() == Path::new(target)).unwrap()
}

#[test]
fn config_json_names_nothing_but_the_bundles_folder() {
    let mut fixture = Fixture::new();
    fixture.container.mounts = vec![CriMount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        readonly: true,
        propagation: MountPropagation::PropagationHostToContainer.into(),
        ..Default::default()
    }];
    let pid = |pid: NamespaceMode| NamespaceOption { pid: pid.into(), ..Default::default() };
    fixture.context().namespace_options = Some(pid(NamespaceMode::Pod));
    let bundle = bundle_of(&fixture).unwrap();
    let folder = "/run/b/c/oci";
    let expected = [
        "fd0 rootfs",
        "shm mounts/1",
        "fd1 mounts/2",
        "fd2 mounts/3",
        "fd3 mounts/4",
        "fd4 mounts/5",
        "pid ns/pid",
        "net ns/net",
        "uts ns/uts",
        "ipc ns/ipc",
    ];
    let expected: Vec<_> = expected.iter().map(|line| line.replacen(' ', &format!(" {folder}/"), 1)).collect();
    assert_eq!(placed(&bundle), expected);
    let data = mount(&bundle, "/data");
    assert_eq!(data.source().as_deref(), Some(Path::new("/run/b/c/oci/mounts/2")));
    assert_eq!(data.options().as_deref().unwrap(), ["rbind", "rslave"]);
    let is = |bind: &&Bind| bundle.config.mounts().as_ref().unwrap()[bind.mount].destination() == Path::new("/data");
    assert_eq!(bundle.binds.iter().find(is).map(|bind| bind.fd), Some(1));
    // Read-only it is already where it is mounted for the runtime.
    let FdSource::Bind(bind) = &bundle.plan.fds[1] else { panic!("{:?}", bundle.plan.fds[1]) };
    assert_eq!((bind.source.as_path(), bind.attributes.set), (Path::new("/srv/data"), 1));
    let text = serde_json::to_string(&bundle.config).unwrap();
    for ours in ["x-berth", "pod:", "image:", "/srv/data"] {
        assert!(!text.contains(ours), "{ours}: {text}");
    }
    let cgroup = bundle.config.linux().as_ref().unwrap().cgroups_path().clone();
    assert_eq!(cgroup.as_deref(), Some(Path::new("/pod/container")));
    assert_eq!(mount(&bundle, "/proc").typ().as_deref(), Some("proc"));
}

#[test]
fn the_process_is_as_far_as_the_host_can_give_it() {
    let mut fixture = Fixture::new();
    fixture.host.held_caps = 1 << 5;
    fixture.container.tty = true;
    let bundle = bundle_of(&fixture).unwrap();
    let process = bundle.config.process().as_ref().unwrap();
    let bounding = process.capabilities().as_ref().unwrap().bounding().clone().unwrap();
    assert_eq!(bounding.iter().map(ToString::to_string).collect::<Vec<_>>(), ["KILL"]);
    assert_eq!(process.args().as_deref().unwrap(), ["/entry", "default"]);
    assert_eq!((process.terminal(), process.cwd().as_path()), (Some(true), Path::new("/")));
    assert!(bundle.plan.init.tty && bundle.plan.init.stdin);
    assert_eq!(bundle.plan.warnings.len(), 1, "what was withheld is told");
}

#[test]
fn attributes_are_told_once_they_are_known() {
    let mut bundle = bundle_of(&Fixture::new()).unwrap();
    let Bind { mount, .. } = bundle.binds[0];
    bundle.add_options(mount, &["ro", "nosuid"]);
    let options = bundle.config.mounts().as_ref().unwrap()[mount].options().clone().unwrap();
    assert_eq!(options, ["rbind", "rprivate", "ro", "nosuid"]);
    let mut fixture = Fixture::new();
    fixture.container.mounts = vec![CriMount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        mount_options: vec!["nosymfollow".into()],
        ..Default::default()
    }];
    assert!(bundle_of(&fixture).is_err(), "it could not be told");
}

#[test]
fn an_environment_that_is_no_text_is_refused() {
    let mut fixture = Fixture::new();
    fixture.container.envs = vec![cri_api::v1::KeyValue { key: "RAW".into(), value: vec![0xff] }];
    let refused = bundle_of(&fixture).unwrap_err().to_string();
    assert!(refused.starts_with("process.env "), "{refused}");
}

#[test]
fn a_runtime_is_given_the_annotations_that_it_may_see() {
    let mut fixture = Fixture::new();
    fixture.container.annotations =
        HashMap::from([("io.pod/b".into(), "3".into()), ("run.oci.handler".into(), "4".into())]);
    let bundle = bundle_of(&fixture).unwrap();
    let mut given: Vec<_> = bundle.config.annotations().as_ref().unwrap().iter().collect();
    given.sort();
    assert_eq!(given, [(&"io.pod/a".to_owned(), &"1".to_owned()), (&"io.pod/b".to_owned(), &"3".to_owned())]);
}

#[test]
fn patterns() {
    for (pattern, text, is) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*", "", true),
        ("*b", "ab", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abde", false),
        ("ab*b", "ab", false),
        ("", "a", false),
    ] {
        assert_eq!(matches(pattern, text), is, "{pattern} {text}");
    }
}

#[test]
fn a_hybrid_host_is_one_of_v1() {
    let mut fixture = Fixture::new();
    let hierarchy = Hierarchy { folder: "memory".into(), options: vec!["memory".into()] };
    let resources = fixture.container.linux.as_mut().unwrap().resources.as_mut().unwrap();
    resources.hugepage_limits = vec![cri_api::v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }];
    let limits = |fixture: &Fixture| {
        let bundle = bundle_of(fixture).unwrap();
        bundle.config.linux().as_ref().unwrap().resources().as_ref().unwrap().hugepage_limits().clone()
    };
    assert!(limits(&fixture).is_some());
    fixture.host.cgroups = CgroupMounts::Legacy { hierarchies: vec![hierarchy], links: vec![], unified: true };
    assert_eq!(limits(&fixture), None);
}
