//! Requests and the specs they become.

use cri_api::v1::{
    Device, HugepageLimit, IdMapping, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount as CriMount, MountPropagation, NamespaceMode,
    NamespaceOption, UserNamespace,
};
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};
use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType};

use super::*;
use crate::libcontainer::spec::capability::mask;

pub(crate) fn host() -> HostFacts {
    HostFacts {
        held_caps: (1 << 41) - 1,
        oom_score_adj: 0,
        hostname: "node".to_owned(),
        swap_limit: true,
        hugetlb: true,
        recursive_readonly: true,
        user_namespaces: true,
        apparmor: false,
        apparmor_default: None,
        selinux: false,
        cgroups: CgroupMounts::Unified,
        kernel: (6, 18),
    }
}

/// A request's parts, with the least in them.
pub(crate) struct Fixture {
    pub(crate) sandbox: PodSandboxConfig,
    pub(crate) container: ContainerConfig,
    pub(crate) image: ImageConfiguration,
    pub(crate) user: ResolvedUser,
    pub(crate) pod: PodPaths,
    pub(crate) devices: HostDevices,
    pub(crate) profile: Option<Vec<u8>>,
    pub(crate) defaults: Defaults,
    pub(crate) host: HostFacts,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let config = ConfigBuilder::default()
            .entrypoint(vec!["/entry".to_owned()])
            .cmd(vec!["default".to_owned()])
            .env(vec!["FROM=image".to_owned(), "BOTH=image".to_owned()])
            .build()
            .unwrap();
        Self {
            sandbox: PodSandboxConfig { hostname: "pod".to_owned(), ..Default::default() },
            container: ContainerConfig {
                linux: Some(LinuxContainerConfig {
                    security_context: Some(LinuxContainerSecurityContext::default()),
                    resources: Some(LinuxContainerResources::default()),
                }),
                ..Default::default()
            },
            image: ImageConfigurationBuilder::default().config(config).build().unwrap(),
            user: ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: Some("/root".to_owned()) },
            pod: PodPaths {
                hosts: Some("/run/pod/hosts".into()),
                resolv_conf: Some("/run/pod/resolv.conf".into()),
                hostname: Some("/run/pod/hostname".into()),
            },
            devices: HostDevices::default(),
            profile: None,
            defaults: Defaults::default(),
            host: host(),
        }
    }

    pub(crate) fn context(&mut self) -> &mut LinuxContainerSecurityContext {
        self.container.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    pub(crate) fn privileged(mut self) -> Self {
        self.context().privileged = true;
        self.sandbox.linux = Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext { privileged: true, ..Default::default() }),
            ..Default::default()
        });
        self
    }

    /// As `privileged`, in the pod that there is.
    fn privileged_in_place(mut self) -> Self {
        self.context().privileged = true;
        let context = self.sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        context.unwrap().privileged = true;
        self
    }

    pub(crate) fn build(&self) -> Result<Spec, SpecError> {
        build(&SpecInput {
            sandbox: &self.sandbox,
            container: &self.container,
            image: &self.image,
            user: &self.user,
            pod: &self.pod,
            devices: &self.devices,
            seccomp_profile: self.profile.as_deref(),
            cgroups_path: "pod/container",
            selinux_level: "s0:c7,c8",
            defaults: &self.defaults,
            host: &self.host,
        })
    }

    fn args(&self) -> Vec<String> {
        self.build().unwrap().process().as_ref().unwrap().args().clone().unwrap()
    }

    fn error(&self) -> String {
        self.build().unwrap_err().to_string()
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn bind(target: &str) -> CriMount {
    CriMount { container_path: target.to_owned(), host_path: "/data".to_owned(), ..Default::default() }
}

fn targets(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().as_deref().unwrap();
    mounts.iter().map(|mount| mount.destination().to_string_lossy().into_owned()).collect()
}

fn options_of(spec: &Spec, target: &str) -> Vec<String> {
    let mounts = spec.mounts().as_deref().unwrap();
    mounts.iter().find(|mount| mount.destination().to_str() == Some(target)).unwrap().options().clone().unwrap()
}

#[test]
fn command_and_args() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.args(), ["/entry", "default"]);
    fixture.container.args = strings(&["mine"]);
    assert_eq!(fixture.args(), ["/entry", "mine"]);
    fixture.container.command = strings(&["/cmd"]);
    assert_eq!(fixture.args(), ["/cmd", "mine"]);
    fixture.container.args.clear();
    assert_eq!(fixture.args(), ["/cmd"], "the image's CMD goes with its ENTRYPOINT");
    fixture.container.command.clear();
    fixture.image = ImageConfiguration::default();
    assert!(matches!(fixture.build(), Err(SpecError::NoCommand)));
    fixture.container.args = strings(&[""]);
    assert!(matches!(fixture.build(), Err(SpecError::NoCommand)));
}

#[test]
fn environment_comes_in_order_and_the_last_value_wins() {
    let mut fixture = Fixture::new();
    let variable = |key: &str, value: &[u8]| KeyValue { key: key.to_owned(), value: value.to_vec() };
    fixture.container.envs = vec![variable("BOTH", b"request"), variable("RAW", b"\xff=x"), variable("A", b"b=c")];
    let spec = fixture.build().unwrap();
    let env = raw_environment(&spec);
    let expected: [&[u8]; 7] = [
        b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOSTNAME=pod",
        b"FROM=image",
        b"BOTH=request",
        b"RAW=\xff=x",
        b"A=b=c",
        b"HOME=/root",
    ];
    assert_eq!(env, expected);
    // What is not UTF-8 survives the state file.
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(raw_environment(&serde_json::from_str(&text).unwrap()), expected);

    fixture.container.tty = true;
    fixture.sandbox.hostname.clear();
    let env = raw_environment(&fixture.build().unwrap());
    assert!(env.contains(&b"TERM=xterm".to_vec()) && env.contains(&b"HOSTNAME=node".to_vec()));

    for bad in ["", "A=B", "A\0"] {
        fixture.container.envs = vec![variable(bad, b"")];
        assert!(fixture.error().starts_with("envs.key"), "{bad:?}");
    }
}

#[test]
fn working_directory() {
    let mut fixture = Fixture::new();
    let cwd = |fixture: &Fixture| fixture.build().unwrap().process().as_ref().unwrap().cwd().clone();
    assert_eq!(cwd(&fixture), PathBuf::from("/"));
    fixture
        .image
        .set_config(Some(ConfigBuilder::default().working_dir("app".to_owned()).cmd(strings(&["x"])).build().unwrap()));
    assert_eq!(cwd(&fixture), PathBuf::from("/app"));
    fixture.container.working_dir = "/mine".to_owned();
    assert_eq!(cwd(&fixture), PathBuf::from("/mine"));
    fixture.container.working_dir = "mine".to_owned();
    assert_eq!(fixture.error(), "working_dir: \"mine\" is not an absolute path");
}

#[test]
fn a_plain_container_gets_the_defaults() {
    let spec = Fixture::new().build().unwrap();
    assert_eq!(
        targets(&spec),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/hostname"
        ]
    );
    assert!(options_of(&spec, "/sys").contains(&"ro".to_owned()));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(mask(process.capabilities().as_ref().unwrap().bounding().as_ref()), 0xa804_25fb);
    assert_eq!(process.rlimits(), &None);
    assert_eq!(process.oom_score_adj(), Some(0));
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
    assert!(linux.readonly_paths().as_ref().unwrap().contains(&"/proc/sys".to_owned()));
    assert!(linux.seccomp().is_none(), "nil is unconfined");
    let rules = linux.resources().as_ref().unwrap().devices().as_deref().unwrap();
    assert!(!rules[0].allow() && rules[1..].iter().all(|rule| rule.allow()));
    let kinds: Vec<String> = linux
        .namespaces()
        .as_deref()
        .unwrap()
        .iter()
        .map(|namespace| {
            format!("{}={}", namespace.typ(), namespace.path().as_ref().map_or("", |p| p.to_str().unwrap()))
        })
        .collect();
    assert_eq!(kinds, ["mnt=", "pid=pod:", "net=pod:", "uts=pod:", "ipc=pod:", "cgroup="]);
}

#[test]
fn nothing_at_all_is_enough() {
    let mut fixture = Fixture::new();
    fixture.container.linux = None;
    fixture.sandbox = PodSandboxConfig::default();
    fixture.build().unwrap();
}

#[test]
fn privileged_is_for_privileged_pods() {
    let fixture = Fixture::new().privileged();
    let spec = fixture.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_deref(), Some(&[][..]));
    assert_eq!(linux.readonly_paths().as_deref(), Some(&[][..]));
    assert!(options_of(&spec, "/sys").contains(&"rw".to_owned()));
    assert!(options_of(&spec, "/sys/fs/cgroup").contains(&"rw".to_owned()));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(mask(process.capabilities().as_ref().unwrap().effective().as_ref()), (1 << 41) - 1);
    let rules = linux.resources().as_ref().unwrap().devices().as_deref().unwrap();
    assert_eq!(rules.len(), 1);
    assert!(rules[0].allow());

    let mut fixture = Fixture::new();
    fixture.context().privileged = true;
    assert!(matches!(fixture.build(), Err(SpecError::PrivilegedContainer)));
}

#[test]
fn requested_mounts_replace_defaults_and_come_parents_first() {
    let mut fixture = Fixture::new();
    fixture.container.mounts =
        vec![bind("/b/c"), bind("/a"), bind("/etc/hosts/"), bind("/dev/shm"), bind("/b"), bind("/c/")];
    let spec = fixture.build().unwrap();
    let all = targets(&spec);
    assert_eq!(all[..6], ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"].map(str::to_owned));
    assert_eq!(
        all[6..],
        ["/a", "/b", "/c", "/b/c", "/etc/hosts", "/dev/shm", "/etc/resolv.conf", "/etc/hostname"].map(str::to_owned)
    );
    fixture.container.mounts = vec![bind("/dev")];
    let all = targets(&fixture.build().unwrap());
    assert!(!all.iter().any(|path| path.starts_with("/dev/")), "{all:?}");
}

#[test]
fn mount_flags() {
    let mut fixture = Fixture::new();
    let with = |change: &dyn Fn(&mut CriMount)| {
        let mut mount = bind("/v");
        change(&mut mount);
        vec![mount]
    };
    let shared = MountPropagation::PropagationBidirectional as i32;
    fixture.container.mounts = with(&|mount| mount.propagation = shared);
    let spec = fixture.build().unwrap();
    assert_eq!(options_of(&spec, "/v"), ["rbind", CREATE_SOURCE, "rshared", "rw"]);
    assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rshared"));

    fixture.container.mounts = with(&|mount| (mount.readonly, mount.recursive_read_only) = (true, true));
    assert_eq!(options_of(&fixture.build().unwrap(), "/v"), ["rbind", CREATE_SOURCE, "rprivate", "rro"]);
    fixture.host.recursive_readonly = false;
    assert!(fixture.error().starts_with("RROUnsupported"));
    fixture.host.recursive_readonly = true;

    type Change = fn(&mut CriMount);
    let refused: [(Change, &str); 9] = [
        (|mount| mount.recursive_read_only = true, "needs readonly"),
        (
            |mount| {
                (mount.readonly, mount.recursive_read_only) = (true, true);
                mount.propagation = MountPropagation::PropagationHostToContainer as i32;
            },
            "needs private",
        ),
        (|mount| mount.host_path = "relative".to_owned(), "host_path"),
        (|mount| mount.container_path = "relative".to_owned(), "not absolute"),
        (|mount| mount.container_path = "/a/..".to_owned(), "root"),
        (|mount| mount.container_path = "/proc".to_owned(), "/proc"),
        (|mount| mount.container_path = "/proc/self/attr".to_owned(), "inside /proc"),
        (|mount| mount.propagation = 9, "propagation"),
        (|mount| mount.mount_options = strings(&["remount"]), "mount_options"),
    ];
    for (change, reason) in refused {
        fixture.container.mounts = with(&change);
        assert!(fixture.error().contains(reason), "{reason}: {}", fixture.error());
    }
}

#[test]
fn host_namespaces() {
    let mut fixture = Fixture::new();
    let node = NamespaceMode::Node as i32;
    let options = NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
    fixture.sandbox.linux = Some(LinuxPodSandboxConfig {
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        }),
        ..Default::default()
    });
    fixture.context().namespace_options = Some(options);
    let spec = fixture.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let kinds: Vec<String> = linux.namespaces().as_deref().unwrap().iter().map(|n| n.typ().to_string()).collect();
    assert_eq!(kinds, ["mnt", "cgroup"]);
    let shm = spec.mounts().as_deref().unwrap().iter().find(|m| m.destination().ends_with("shm")).unwrap();
    assert_eq!(shm.source().as_deref(), Some(std::path::Path::new("/dev/shm")));

    let target = NamespaceOption { pid: NamespaceMode::Target as i32, ..Default::default() };
    fixture.context().namespace_options = Some(target.clone());
    assert!(fixture.error().contains("target_id"));
    fixture.context().namespace_options = Some(NamespaceOption { target_id: "abc".to_owned(), ..target });
    let mode = pid_mode(&PodSandboxConfig::default(), Some(fixture.context())).unwrap();
    assert_eq!(mode, PidMode::Target("abc".to_owned()));
}

fn mapped_pod(user: UserNamespace, change: impl FnOnce(&mut NamespaceOption)) -> PodSandboxConfig {
    let mut options = NamespaceOption { userns_options: Some(user), ..Default::default() };
    change(&mut options);
    let security_context = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security_context), ..Default::default() };
    PodSandboxConfig { linux: Some(linux), ..Default::default() }
}

fn ids(mode: NamespaceMode, list: &[IdMapping]) -> UserNamespace {
    UserNamespace { mode: mode as i32, uids: list.to_vec(), gids: list.to_vec() }
}

const MAPPING: IdMapping = IdMapping { host_id: 65536, container_id: 0, length: 65536 };

impl Fixture {
    /// In a pod with a user namespace of its own.
    pub(crate) fn mapped(mut self) -> Self {
        self.sandbox = mapped_pod(ids(NamespaceMode::Pod, &[MAPPING]), |_| {});
        self
    }
}

#[test]
fn user_namespaces_have_one_mapping_from_zero() {
    let check = |mode, list: &[IdMapping]| user_namespace(&mapped_pod(ids(mode, list), |_| {}));
    let map = |container_id, length| IdMapping { container_id, length, ..MAPPING };
    assert!(check(NamespaceMode::Pod, &[map(0, 65536)]).unwrap().is_some());
    assert!(check(NamespaceMode::Node, &[]).unwrap().is_none());
    assert!(check(NamespaceMode::Node, &[map(0, 1)]).is_err());
    assert!(check(NamespaceMode::Pod, &[]).is_err());
    assert!(check(NamespaceMode::Pod, &[map(0, 1), map(1, 1)]).is_err());
    assert!(check(NamespaceMode::Pod, &[map(1, 65536)]).is_err());
    assert!(check(NamespaceMode::Pod, &[map(0, 0)]).is_err());
    assert!(check(NamespaceMode::Pod, &[map(0, u32::MAX - 65536)]).is_ok(), "up to the last id");
    assert!(check(NamespaceMode::Pod, &[map(0, u32::MAX - 65535)]).is_err(), "and no further");
    assert!(check(NamespaceMode::Container, &[map(0, 65536)]).is_err());
    assert!(check(NamespaceMode::Target, &[map(0, 65536)]).is_err());
    assert!(asks_for_ids(&mapped_pod(ids(NamespaceMode::Pod, &[]), |_| {})));
    assert!(!asks_for_ids(&mapped_pod(ids(NamespaceMode::Node, &[]), |_| {})));
    assert!(!asks_for_ids(&PodSandboxConfig::default()));
}

#[test]
fn a_user_namespace_has_nothing_of_the_hosts() {
    const NODE: i32 = NamespaceMode::Node as i32;
    for change in [
        (|options| options.network = NODE) as fn(&mut NamespaceOption),
        |options| options.pid = NODE,
        |options| options.ipc = NODE,
    ] {
        let error = user_namespace(&mapped_pod(ids(NamespaceMode::Pod, &[MAPPING]), change)).unwrap_err();
        assert!(error.to_string().contains("namespace is the host's"), "{error}");
    }
    let mut fixture = Fixture::new().mapped();
    fixture.context().namespace_options = Some(NamespaceOption { pid: NODE, ..Default::default() });
    assert!(fixture.error().contains("NODE"));
}

#[test]
fn a_container_fits_into_its_pods_user_namespace() {
    let mut fixture = Fixture::new().mapped();
    let own = |mode, list: &[IdMapping]| {
        Some(NamespaceOption { userns_options: Some(ids(mode, list)), ..Default::default() })
    };
    for (options, fits) in [
        (None, true),
        (own(NamespaceMode::Pod, &[MAPPING]), true),
        (own(NamespaceMode::Pod, &[]), true),
        (own(NamespaceMode::Pod, &[IdMapping { host_id: 1, ..MAPPING }]), false),
        (own(NamespaceMode::Node, &[]), false),
    ] {
        fixture.context().namespace_options = options.clone();
        assert_eq!(fixture.build().is_ok(), fits, "{options:?}");
    }
    fixture.context().namespace_options = None;
    fixture.user.uid = 65535;
    fixture.build().unwrap();
    fixture.user.uid = 65536;
    assert!(fixture.error().contains("65536"));
    fixture.user.uid = 0;
    fixture.user.groups = vec![0, 70000];
    assert!(fixture.error().contains("70000"));
}

#[test]
fn a_spec_in_a_user_namespace_maps_owners_and_mounts_devices() {
    let mut fixture = Fixture::new().mapped().privileged_in_place();
    let volume = |target: &str, mappings: Vec<IdMapping>| CriMount {
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        ..bind(target)
    };
    fixture.container.mounts = vec![volume("/mapped", vec![MAPPING]), volume("/plain", vec![])];
    let host =
        |path: &str| HostDevice { path: path.into(), block: false, major: 10, minor: 1, mode: 0o660, uid: 0, gid: 0 };
    fixture.container.devices = vec![Device {
        host_path: "/dev/fuse".to_owned(),
        container_path: "/dev/other".to_owned(),
        permissions: "rw".to_owned(),
    }];
    fixture.devices = HostDevices { requested: vec![vec![host("/dev/fuse")]], all: vec![host("/dev/mem")] };
    let spec = fixture.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let mapping = linux.uid_mappings().as_ref().unwrap();
    assert_eq!((mapping.len(), mapping[0].host_id(), mapping[0].size()), (1, 65536, 65536));
    assert_eq!(linux.devices().as_deref(), Some(&[][..]), "no nodes, neither the requested one nor the host's");
    let kinds: Vec<String> = linux.namespaces().as_deref().unwrap().iter().map(|n| n.typ().to_string()).collect();
    assert_eq!(kinds, ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup"]);
    let mounts = spec.mounts().as_deref().unwrap();
    let mount = |target: &str| mounts.iter().find(|mount| mount.destination().to_str() == Some(target));
    assert_eq!(mount("/dev/other").unwrap().source().as_deref(), Some(std::path::Path::new("/dev/fuse")));
    assert!(mount("/dev/mem").is_none());
    let mapped = |target: &str| mount(target).unwrap().uid_mappings().as_ref().is_some_and(|list| list.len() == 1);
    assert!(mapped("/mapped") && mapped("/etc/hosts") && !mapped("/plain") && !mapped("/dev/other"));

    fixture.container.mounts = vec![volume("/v", vec![IdMapping { host_id: 1, ..MAPPING }])];
    assert!(fixture.error().contains("other than the pod's own"));
    fixture.sandbox = PodSandboxConfig::default();
    fixture.context().privileged = false;
    assert!(fixture.error().contains("need a pod in a user namespace"));
}

#[test]
fn devices() {
    let mut fixture = Fixture::new();
    let host = |path: &str, minor| HostDevice {
        path: path.into(),
        block: false,
        major: 10,
        minor,
        mode: 0o20660,
        uid: 0,
        gid: 44,
    };
    let ask = |host: &str, container: &str, permissions: &str| Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    };
    fixture.container.devices = vec![ask("/dev/snd", "/dev/sound", "wr"), ask("/dev/fuse", "", "rwm")];
    fixture.devices.requested =
        vec![vec![host("/dev/snd/a", 1), host("/dev/snd/by/b", 2)], vec![host("/dev/fuse", 229)]];
    let spec = fixture.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let made: Vec<String> = linux
        .devices()
        .as_deref()
        .unwrap()
        .iter()
        .map(|d| format!("{} {:o}", d.path().display(), d.file_mode().unwrap()))
        .collect();
    assert_eq!(made, ["/dev/sound/a 660", "/dev/sound/by/b 660", "/dev/fuse 660"]);
    let rules = linux.resources().as_ref().unwrap().devices().as_deref().unwrap();
    let last: Vec<String> = rules[rules.len() - 3..].iter().map(ToString::to_string).collect();
    assert_eq!(last, ["c 10:1 rw", "c 10:2 rw", "c 10:229 rwm"]);

    fixture.devices.requested = vec![vec![host("/dev/fuse", 229)]];
    for bad in ["rx", "", "rr", "R", "rwmr", "r w"] {
        fixture.container.devices = vec![ask("/dev/fuse", "", bad)];
        assert!(fixture.error().contains("permissions"), "{bad:?}");
    }
    fixture.container.devices = vec![ask("/dev/fuse", "/dev/../x", "r")];
    assert!(fixture.error().contains("container_path"));
    // A folder without devices gives none, as in containerd.
    fixture.container.devices = vec![ask("/dev/snd", "", "r")];
    fixture.devices.requested = vec![vec![]];
    fixture.build().unwrap();
    fixture.container.devices = vec![ask("/dev/fuse", "", "r")];
    fixture.devices.requested = vec![];
    assert_eq!(fixture.error(), "device \"/dev/fuse\": is no device on this host");
}

#[test]
fn resources_are_all_carried() {
    let mut fixture = Fixture::new();
    let asked = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 20,
        oom_score_adj: -998,
        cpuset_cpus: "0-1".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit: 0 }],
        unified: HashMap::from([("memory.high".to_owned(), "1000".to_owned())]),
        memory_swap_limit_in_bytes: 0,
    };
    let resources = resources::to_oci(Some(&asked), &fixture.host).unwrap();
    let (cpu, memory) = (resources.cpu().as_ref().unwrap(), resources.memory().unwrap());
    assert_eq!((cpu.period(), cpu.quota(), cpu.shares()), (Some(100_000), Some(50_000), Some(512)));
    assert_eq!((cpu.cpus().as_deref(), cpu.mems().as_deref()), (Some("0-1"), Some("0")));
    assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(1 << 20)));
    assert_eq!(resources.hugepage_limits().as_deref().unwrap()[0].page_size(), "2MB");
    assert_eq!(resources.unified().as_ref().unwrap()["memory.high"], "1000");
    fixture.host.swap_limit = false;
    fixture.host.hugetlb = false;
    let resources = resources::to_oci(Some(&asked), &fixture.host).unwrap();
    assert_eq!(resources.memory().unwrap().swap(), None);
    assert_eq!(resources.hugepage_limits(), &None, "a zero takes nothing away");

    type Change = fn(&mut LinuxContainerResources);
    let refused: [(Change, &str); 8] = [
        (|r| r.cpu_shares = -1, "cpu_shares"),
        (|r| r.cpu_quota = -2, "cpu_quota"),
        (|r| r.memory_limit_in_bytes = -2, "memory_limit"),
        (|r| r.memory_swap_limit_in_bytes = 1, "memory_swap_limit"),
        (|r| r.hugepage_limits[0].limit = 1, "no hugetlb controller"),
        (|r| r.hugepage_limits[0].page_size = "big".to_owned(), "page size"),
        (|r| r.unified = HashMap::from([("../x.y".to_owned(), String::new())]), "unified"),
        (|r| r.unified = HashMap::from([("cgroup.kill".to_owned(), "1".to_owned())]), "unified"),
    ];
    for (change, reason) in refused {
        let mut bad = asked.clone();
        change(&mut bad);
        let error = resources::to_oci(Some(&bad), &fixture.host).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    fixture.container.linux.as_mut().unwrap().resources.as_mut().unwrap().oom_score_adj = 1001;
    assert!(fixture.error().contains("oom_score_adj"));
}

#[test]
fn seccomp_profiles_go_into_the_spec() {
    let mut fixture = Fixture::new();
    fixture.context().seccomp = Some(cri_api::v1::SecurityProfile::default());
    let spec = fixture.build().unwrap();
    assert!(spec.linux().as_ref().unwrap().seccomp().is_some(), "an empty profile is RuntimeDefault");
    fixture.context().seccomp =
        Some(cri_api::v1::SecurityProfile { profile_type: 2, localhost_ref: "/p.json".to_owned() });
    assert!(fixture.error().contains("not read"));
    fixture.profile = Some(b"{\"defaultAction\":\"SCMP_ACT_ALLOW\"}".to_vec());
    fixture.build().unwrap();
    fixture.profile = Some(b"{\"defaultAction\":\"SCMP_ACT_MAYBE\"}".to_vec());
    let error = fixture.build().unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("/p.json") && reason.contains("line 1"), "{error}: {reason}");
}

fn apparmor(fixture: &Fixture) -> Option<String> {
    fixture.build().unwrap().process().as_ref().unwrap().apparmor_profile().clone()
}

#[test]
fn the_new_apparmor_field_beats_the_deprecated_one() {
    let mut fixture = Fixture::new();
    fixture.host.apparmor = true;
    fixture.host.apparmor_default = Some("berth-default".to_owned());
    let new = |kind: i32, name: &str| {
        Some(cri_api::v1::SecurityProfile { profile_type: kind, localhost_ref: name.to_owned() })
    };
    #[allow(deprecated)]
    let mut profile = |new: Option<cri_api::v1::SecurityProfile>, old: &str, privileged: bool| {
        let context = fixture.context();
        (context.apparmor, context.apparmor_profile, context.privileged) = (new, old.to_owned(), privileged);
        let sandbox = fixture.sandbox.linux.get_or_insert_default().security_context.get_or_insert_default();
        sandbox.privileged = privileged;
        apparmor(&fixture)
    };
    let default = Some("berth-default".to_owned());
    assert_eq!(profile(None, "", false), default);
    assert_eq!(profile(None, "runtime/default", false), default);
    assert_eq!(profile(None, "unconfined", false), None);
    assert_eq!(profile(None, "localhost/old", false).as_deref(), Some("old"));
    assert_eq!(profile(new(0, ""), "unconfined", false), default);
    assert_eq!(profile(new(1, ""), "localhost/old", false), None);
    assert_eq!(profile(new(2, "mine"), "localhost/old", false).as_deref(), Some("mine"));
    assert_eq!(profile(new(2, "localhost/mine"), "", false).as_deref(), Some("mine"));
    assert_eq!(profile(None, "", true), None, "privileged alone is unconfined");
    assert_eq!(profile(new(2, "mine"), "", true).as_deref(), Some("mine"));
    for bad in ["", "two\nlines"] {
        fixture.context().apparmor = new(2, bad);
        assert!(fixture.error().contains("is no profile name"), "{bad:?}");
    }
}

#[test]
fn security_labels_need_their_module() {
    let mut fixture = Fixture::new();
    let profile = cri_api::v1::SecurityProfile { profile_type: 2, localhost_ref: "mine".to_owned() };
    fixture.context().apparmor = Some(profile);
    assert!(fixture.error().contains("AppArmor is not active"));
    fixture.context().apparmor = Some(cri_api::v1::SecurityProfile::default());
    assert!(fixture.error().contains("AppArmor is not active"), "RuntimeDefault was asked for");
    fixture.host.apparmor = true;
    assert!(fixture.error().contains("could not be loaded"), "RuntimeDefault was asked for");
    fixture.context().apparmor = None;
    assert_eq!(apparmor(&fixture), None, "nothing was asked for");

    let options = |level: &str| cri_api::v1::SeLinuxOption { level: level.to_owned(), ..Default::default() };
    fixture.context().selinux_options = Some(options("rotten"));
    assert!(fixture.error().contains("selinux_options"));
    fixture.context().selinux_options = Some(options("s0:c1,c2"));
    fixture.host.selinux = true;
    let spec = fixture.build().unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.selinux_label().as_deref(), Some("system_u:system_r:container_t:s0:c1,c2"));
    let mounts = spec.linux().as_ref().unwrap().mount_label();
    assert_eq!(mounts.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
}

#[test]
fn the_level_is_the_pods_unless_asked_otherwise() {
    let labels = |fixture: &Fixture| {
        let spec = fixture.build().unwrap();
        let file = spec.linux().as_ref().unwrap().mount_label().clone();
        (spec.process().as_ref().unwrap().selinux_label().clone(), file)
    };
    let mut fixture = Fixture::new();
    assert_eq!(labels(&fixture), (None, None), "SELinux is off");
    fixture.host.selinux = true;
    let of = |process: &str, level: &str| {
        (Some(format!("{process}:{level}")), Some(format!("system_u:object_r:container_file_t:{level}")))
    };
    assert_eq!(labels(&fixture), of("system_u:system_r:container_t", "s0:c7,c8"));
    let asked = cri_api::v1::SeLinuxOption {
        user: "staff_u".to_owned(),
        role: "staff_r".to_owned(),
        r#type: "own_t".to_owned(),
        level: String::new(),
    };
    fixture.context().selinux_options = Some(asked);
    assert_eq!(labels(&fixture), of("staff_u:staff_r:own_t", "s0:c7,c8"));
    fixture.context().selinux_options = None;
    assert_eq!(labels(&fixture.privileged()), of("system_u:system_r:spc_t", "s0:c7,c8"));
    let mut fixture = Fixture::new();
    fixture.context().selinux_options =
        Some(cri_api::v1::SeLinuxOption { r#type: "a:b".to_owned(), ..Default::default() });
    assert!(fixture.error().contains("characters that no label has"), "also where SELinux is off");
}

#[test]
fn users_are_carried() {
    let mut fixture = Fixture::new();
    fixture.context().run_as_user = Some(Int64Value { value: 7 });
    fixture.user = user::resolve(Some(fixture.context()), "", b"", b"").unwrap();
    let spec = fixture.build().unwrap();
    let owner = spec.process().as_ref().unwrap().user();
    assert_eq!((owner.uid(), owner.gid(), owner.additional_gids().as_deref()), (7, 0, Some(&[0][..])));
}

#[test]
fn a_handler_sets_limits_and_keeps_the_hosts_devices() {
    let mut fixture = Fixture::new().privileged();
    let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(1024u64).hard(4096u64);
    let limit = limit.build().unwrap();
    fixture.defaults.rlimits = vec![limit];
    let rules = |fixture: &Fixture| {
        let spec = fixture.build().unwrap();
        assert_eq!(spec.process().as_ref().unwrap().rlimits().as_deref(), Some(&[limit][..]));
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap();
        resources.devices().clone().unwrap().len()
    };
    assert_eq!(rules(&fixture), 1, "all devices are allowed");
    fixture.defaults.without_host_devices = true;
    assert!(rules(&fixture) > 1, "the usual ones are");
}
