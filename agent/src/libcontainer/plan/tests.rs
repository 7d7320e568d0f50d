//! Plans compared as data.

use std::path::PathBuf;

use super::*;
use crate::libcontainer::spec::{CgroupMounts, Hierarchy};

fn fixture() -> crate::libcontainer::spec::tests::Fixture {
    crate::libcontainer::spec::tests::Fixture::new()
}

fn planned(spec: &Spec, host: &HostFacts) -> ContainerPlan {
    let input = PlanInput {
        layers: vec!["/layers/top".into(), "/layers/base".into()],
        upper: Some(Upper { upper: "/c/upper".into(), work: "/c/work".into(), volatile: true }),
        image_volumes: &[],
        filter: None,
        stdin: false,
        stdin_once: false,
        host,
    };
    plan(spec, &input).unwrap()
}

/// One line a step.
fn told(plan: &ContainerPlan) -> Vec<String> {
    let tell = |step: &Step| match step.action.as_ref().unwrap() {
        Action::EnterRoot(step) => format!("root fd{}", step.fd),
        Action::MoveMount(step) => match step.source.as_ref().unwrap() {
            MountSource::Fd(fd) => format!("move fd{fd} {}", step.target),
            MountSource::Pod(name) => format!("move pod {name} {}", step.target),
        },
        Action::MountFs(step) => {
            format!("mount {} {} {:x} {}", step.fstype, step.target, step.attributes, step.options.join(","))
        }
        Action::MakeNode(step) => format!("node {} {:o} {}:{}", step.path, step.mode, step.major, step.minor),
        Action::Symlink(step) => format!("link {} {}", step.path, step.points_to),
        Action::MakeDir(step) => format!("dir {} {:o}", step.path, step.mode),
        Action::MaskPath(step) => format!("mask {}", step.path),
        Action::ReadonlyPath(step) => format!("ro {}", step.path),
        Action::Sysctl(step) => format!("sysctl {}={}", step.key, step.value),
        Action::ReadonlyRoot(_) => "ro root".to_owned(),
        Action::SetNames(_) | Action::RunHooks(_) | Action::LeaveHost(_) => "of bundles only".to_owned(),
        Action::SetMountAttr(step) => format!("attr {} {:x} {}", step.path, step.set, step.recursive),
    };
    plan.init.steps.iter().map(tell).collect()
}

#[test]
fn a_plain_container_step_by_step() {
    let mut fixture = fixture();
    fixture.context().readonly_rootfs = true;
    fixture.context().masked_paths = vec!["/proc/kcore".to_owned()];
    fixture.context().readonly_paths = vec!["/proc/sys".to_owned()];
    fixture.container.working_dir = "/work".to_owned();
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    assert_eq!(
        told(&plan),
        [
            "root fd0",
            "mount proc /proc e ",
            "mount tmpfs /dev 22 mode=755,size=65536k",
            "node /dev/null 20666 1:3",
            "node /dev/zero 20666 1:5",
            "node /dev/full 20666 1:7",
            "node /dev/random 20666 1:8",
            "node /dev/urandom 20666 1:9",
            "node /dev/tty 20666 5:0",
            "link /dev/fd /proc/self/fd",
            "link /dev/stdin /proc/self/fd/0",
            "link /dev/stdout /proc/self/fd/1",
            "link /dev/stderr /proc/self/fd/2",
            "link /dev/core /proc/kcore",
            "link /dev/ptmx pts/ptmx",
            "mount devpts /dev/pts a newinstance,ptmxmode=0666,mode=0620,gid=5",
            "move pod shm /dev/shm",
            "mount mqueue /dev/mqueue e ",
            "mount sysfs /sys f ",
            "mount cgroup2 /sys/fs/cgroup f ",
            "move fd1 /etc/hosts",
            "move fd2 /etc/resolv.conf",
            "move fd3 /etc/hostname",
            "dir /work 755",
            "ro /proc/sys",
            "mask /proc/kcore",
            "ro root",
        ]
    );
    assert_eq!(plan.fds.len(), 4);
    let FdSource::Overlay(root) = &plan.fds[0] else { panic!("{:?}", plan.fds[0]) };
    assert_eq!(root.lower, [PathBuf::from("/layers/top"), PathBuf::from("/layers/base")]);
    let FdSource::Bind(hosts) = &plan.fds[1] else { panic!("{:?}", plan.fds[1]) };
    assert_eq!((hosts.attributes.set, hosts.missing), (1, Missing::Fail));
    assert_eq!(plan.init.namespaces.pid, PidNamespace::Pod as i32);
    assert!(plan.init.namespaces.cgroup);
    assert!(plan.warnings.is_empty());
}

#[test]
fn the_hosts_v1_hierarchies_are_shown() {
    let mut fixture = fixture();
    let hierarchy = |folder: &str, options: &[&str]| Hierarchy {
        folder: folder.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    fixture.host.cgroups = CgroupMounts::Legacy {
        hierarchies: vec![
            hierarchy("cpu,cpuacct", &["cpu", "cpuacct"]),
            hierarchy("systemd", &["none", "name=systemd"]),
        ],
        links: vec![("cpu".to_owned(), "cpu,cpuacct".to_owned())],
        unified: true,
    };
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    let steps: Vec<String> = told(&plan).into_iter().filter(|step| step.contains("/sys/fs/cgroup")).collect();
    assert_eq!(
        steps,
        [
            "mount tmpfs /sys/fs/cgroup e mode=755,size=64k",
            "mount cgroup /sys/fs/cgroup/cpu,cpuacct f cpu,cpuacct",
            "mount cgroup /sys/fs/cgroup/systemd f none,name=systemd",
            "mount cgroup2 /sys/fs/cgroup/unified f ",
            "link /sys/fs/cgroup/cpu cpu,cpuacct",
            "attr /sys/fs/cgroup 1 false",
        ]
    );
}

#[test]
fn image_volumes_are_taken_by_their_order() {
    let mut fixture = fixture();
    let volume = |target: &str| cri_api::v1::Mount {
        container_path: target.to_owned(),
        readonly: true,
        image: Some(cri_api::v1::ImageSpec { image: "an/image".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    // Mounts are made from the outside in; the numbers are the request's.
    fixture.container.mounts = vec![volume("/a/b"), volume("/a")];
    let tree = |name: &str| ImageTree {
        volume: name.to_owned(),
        overlay: Overlay {
            lower: vec![name.into()],
            upper: None,
            readonly: true,
            selinux_context: None,
            idmapped: false,
        },
        sub_path: String::new(),
        attributes: Attributes::default(),
    };
    let images = [tree("first"), tree("second")];
    let spec = fixture.build().unwrap();
    let input = PlanInput {
        layers: vec![],
        upper: None,
        image_volumes: &images,
        filter: None,
        stdin: false,
        stdin_once: false,
        host: &fixture.host,
    };
    let plan = super::plan(&spec, &input).unwrap();
    assert!(told(&plan).contains(&"move fd1 /a".to_owned()) && told(&plan).contains(&"move fd2 /a/b".to_owned()));
    let expected = |name| FdSource::Image(ImageTree { attributes: Attributes { set: 0x7, clear: 0 }, ..tree(name) });
    assert_eq!(plan.fds[1..3], [expected("second"), expected("first")]);
    let short = PlanInput { image_volumes: &images[..1], ..input };
    assert!(super::plan(&spec, &short).is_err(), "a volume without its image");
}

#[test]
fn requested_mounts_become_fds() {
    let mut fixture = fixture();
    fixture.container.mounts = vec![cri_api::v1::Mount {
        container_path: "/v".to_owned(),
        host_path: "/data".to_owned(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    }];
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    assert!(told(&plan).contains(&"move fd1 /v".to_owned()));
    assert_eq!(
        plan.fds[1],
        FdSource::Bind(Bind {
            source: "/data".into(),
            recursive: true,
            attributes: Attributes::default(),
            recursive_attributes: Attributes { set: 1, clear: 0 },
            propagation: Propagation::Private,
            missing: Missing::MakeDir,
            relabel: None,
            idmapped: false,
        })
    );
}

#[test]
fn what_a_container_owns_has_its_label() {
    let mut fixture = fixture();
    fixture.host.selinux = true;
    let volume = |path: &str, relabel| cri_api::v1::Mount {
        container_path: path.to_owned(),
        host_path: "/data".to_owned(),
        selinux_relabel: relabel,
        ..Default::default()
    };
    fixture.container.mounts = vec![volume("/a", true), volume("/b", false)];
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    let label = "system_u:object_r:container_file_t:s0:c7,c8";
    let context = format!("context={label}");
    for step in &plan.init.steps {
        let Some(Action::MountFs(mount)) = &step.action else { continue };
        let has_context = mount.options.contains(&context);
        assert_eq!(has_context, matches!(mount.fstype.as_str(), "tmpfs" | "devpts"), "{mount:?}");
    }
    let relabelled = |source: &FdSource| match source {
        FdSource::Overlay(overlay) => overlay.selinux_context.clone(),
        FdSource::Image(image) => image.overlay.selinux_context.clone(),
        FdSource::Bind(bind) => bind.relabel.clone(),
        FdSource::FileSystem(fs) => panic!("{fs:?}"),
    };
    let label = Some(label.to_owned());
    assert_eq!(plan.fds.iter().map(relabelled).collect::<Vec<_>>(), [label.clone(), label, None, None, None, None]);
    fixture.host.selinux = false;
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    assert!(plan.fds.iter().all(|source| relabelled(source).is_none()));
}

#[test]
fn what_the_agent_lacks_is_left_out_and_told() {
    let mut fixture = fixture().privileged();
    fixture.host.held_caps &= !(1 << 24);
    fixture.container.linux.as_mut().unwrap().resources.as_mut().unwrap().oom_score_adj = -998;
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    assert_eq!(plan.init.process.capabilities.bounding, ((1 << 41) - 1) & !(1 << 24));
    assert_eq!(plan.init.process.oom_score_adj, Some(0));
    let told: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("CAP_SYS_RESOURCE") && told[1].contains("below 0"), "{told:?}");
    fixture.host.oom_score_adj = -999;
    assert_eq!(planned(&fixture.build().unwrap(), &fixture.host).init.process.oom_score_adj, Some(-998));
}

#[test]
fn a_filter_is_never_forgotten() {
    let mut fixture = fixture();
    fixture.context().seccomp = Some(cri_api::v1::SecurityProfile::default());
    let spec = fixture.build().unwrap();
    let mut input = PlanInput {
        layers: vec!["/l".into()],
        upper: None,
        image_volumes: &[],
        filter: None,
        stdin: true,
        stdin_once: false,
        host: &fixture.host,
    };
    assert_eq!(plan(&spec, &input), Err(PlanError::NoFilter));
    assert_eq!(exec_plan(&spec, &fixture.host, None, &["id".to_owned()], false), Err(PlanError::NoFilter));
    let filter = Filter { program: vec![1; 8], flags: 4 };
    input.filter = Some(&filter);
    let made = plan(&spec, &input).unwrap().init;
    assert_eq!((made.process.seccomp_filter.len(), made.process.seccomp_flags, made.stdin), (8, 4, true));
    let exec = exec_plan(&spec, &fixture.host, Some(&filter), &["id".to_owned()], true).unwrap();
    assert_eq!(exec.args, ["id"]);
    assert!(exec.env.contains(&b"TERM=xterm".to_vec()));
    assert_eq!(exec.seccomp_filter, made.process.seccomp_filter);
    assert_eq!(exec.capabilities, made.process.capabilities);
}

#[test]
fn mounts_that_no_step_makes_are_refused() {
    let fixture = fixture();
    let input = PlanInput {
        layers: vec![],
        upper: None,
        image_volumes: &[],
        filter: None,
        stdin: false,
        stdin_once: false,
        host: &fixture.host,
    };
    let mut spec = fixture.build().unwrap();
    spec.mounts_mut().as_mut().unwrap()[0].set_typ(Some("nfs".to_owned()));
    assert!(matches!(plan(&spec, &input), Err(PlanError::MountType { .. })));
    let mut spec = fixture.build().unwrap();
    spec.mounts_mut().as_mut().unwrap()[7].set_options(Some(vec!["bind".to_owned(), "sync".to_owned()]));
    assert!(matches!(plan(&spec, &input), Err(PlanError::MountOption { .. })));
}

#[test]
fn in_a_user_namespace_devices_are_mounts_and_owners_are_mapped() {
    let mut fixture = fixture().mapped();
    fixture.container.mounts = vec![cri_api::v1::Mount {
        container_path: "/v".to_owned(),
        host_path: "/data".to_owned(),
        ..Default::default()
    }];
    fixture.host.held_caps = 0;
    let plan = planned(&fixture.build().unwrap(), &fixture.host);
    assert!(plan.init.namespaces.user);
    let steps = told(&plan);
    assert!(!steps.iter().any(|step| step.starts_with("node ")), "{steps:?}");
    assert!(steps.contains(&"move fd1 /dev/null".to_owned()), "{steps:?}");
    assert!(steps.contains(&"link /dev/ptmx pts/ptmx".to_owned()), "{steps:?}");
    let idmapped = |source: &FdSource| match source {
        FdSource::Overlay(overlay) => overlay.idmapped,
        FdSource::Bind(bind) => bind.idmapped,
        FdSource::Image(image) => image.overlay.idmapped,
        FdSource::FileSystem(fs) => panic!("{fs:?}"),
    };
    let mapped: Vec<bool> = plan.fds.iter().map(idmapped).collect();
    // The root; six devices; the volume, for which the client did not ask; hosts, resolv.conf and hostname.
    let expected = [true, false, false, false, false, false, false, false, true, true, true];
    assert_eq!(mapped, expected, "{:?}", plan.fds);
    assert_ne!(plan.init.process.capabilities.bounding, 0, "the agent's own capabilities are no limit");
    assert!(plan.warnings.is_empty());
}
