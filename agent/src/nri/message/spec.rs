//! The part of a container that its OCI spec tells.

use nri_api::v1alpha1::{
    Container, HugepageLimit, LinuxContainer, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace,
    LinuxPids, LinuxResources, Mount, OptionalBool, OptionalFileMode, OptionalInt, OptionalInt64, OptionalString,
    OptionalUInt32, OptionalUInt64, PosixRlimit,
};
use oci_spec::runtime::{self as oci, Spec};

/// Options that only Berth knows.
const OWN_OPTION: &str = "x-berth.";

/// What a spec says, in NRI's words. `monitor` lives in the pod's namespaces.
pub fn of_spec(spec: &Spec, monitor: Option<i32>) -> Container {
    let process = spec.process().as_ref();
    let list = |words: Option<&Vec<String>>| words.cloned().unwrap_or_default();
    let rlimit = |limit: &oci::PosixRlimit| PosixRlimit {
        r#type: limit.typ().to_string(),
        hard: limit.hard(),
        soft: limit.soft(),
    };
    Container {
        args: list(process.and_then(|process| process.args().as_ref())),
        env: list(process.and_then(|process| process.env().as_ref())),
        mounts: spec.mounts().iter().flatten().map(mount).collect(),
        rlimits: process.and_then(|process| process.rlimits().as_ref()).into_iter().flatten().map(rlimit).collect(),
        linux: spec.linux().as_ref().map(|linux| linux_part(linux, process, monitor)),
        ..Container::default()
    }
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount(mount: &oci::Mount) -> Mount {
    let options = mount.options().iter().flatten();
    Mount {
        destination: text(mount.destination()),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        options: options.filter(|option| !option.starts_with(OWN_OPTION)).cloned().collect(),
    }
}

fn linux_part(linux: &oci::Linux, process: Option<&oci::Process>, monitor: Option<i32>) -> LinuxContainer {
    let score = process.and_then(oci::Process::oom_score_adj);
    let sysctl = linux.sysctl().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    LinuxContainer {
        namespaces: linux.namespaces().iter().flatten().map(|one| namespace(one, monitor)).collect(),
        devices: linux.devices().iter().flatten().map(device).collect(),
        resources: linux.resources().as_ref().map(resources),
        oom_score_adj: score.map(|score| OptionalInt { value: score.into() }),
        cgroups_path: linux.cgroups_path().as_deref().map(text).unwrap_or_default(),
        sysctl: sysctl.collect(),
        rdt: linux.intel_rdt().as_ref().map(|rdt| nri_api::v1alpha1::LinuxRdt {
            clos_id: rdt.clos_id().clone().map(|value| OptionalString { value }),
            ..Default::default()
        }),
        ..LinuxContainer::default()
    }
}

/// The pod's own are told by a path that works.
fn namespace(namespace: &oci::LinuxNamespace, monitor: Option<i32>) -> LinuxNamespace {
    let file = match namespace.typ() {
        oci::LinuxNamespaceType::Network => Some("net"),
        oci::LinuxNamespaceType::Ipc => Some("ipc"),
        oci::LinuxNamespaceType::Uts => Some("uts"),
        _ => None,
    };
    let path = match (namespace.path(), file, monitor) {
        (Some(_), Some(file), Some(pid)) => format!("/proc/{pid}/ns/{file}"),
        _ => String::new(),
    };
    LinuxNamespace { r#type: namespace.typ().to_string(), path }
}

fn device(device: &oci::LinuxDevice) -> LinuxDevice {
    LinuxDevice {
        path: text(device.path()),
        r#type: device.typ().as_str().to_owned(),
        major: device.major(),
        minor: device.minor(),
        file_mode: device.file_mode().map(|value| OptionalFileMode { value }),
        uid: device.uid().map(|value| OptionalUInt32 { value }),
        gid: device.gid().map(|value| OptionalUInt32 { value }),
    }
}

fn resources(limits: &oci::LinuxResources) -> LinuxResources {
    let signed = |value: Option<i64>| value.map(|value| OptionalInt64 { value });
    let unsigned = |value: Option<u64>| value.map(|value| OptionalUInt64 { value });
    let memory = |memory: &oci::LinuxMemory| LinuxMemory {
        limit: signed(memory.limit()),
        reservation: signed(memory.reservation()),
        swap: signed(memory.swap()),
        kernel: signed(memory.kernel()),
        kernel_tcp: signed(memory.kernel_tcp()),
        swappiness: unsigned(memory.swappiness()),
        disable_oom_killer: memory.disable_oom_killer().map(|value| OptionalBool { value }),
        use_hierarchy: memory.use_hierarchy().map(|value| OptionalBool { value }),
    };
    let cpu = |cpu: &oci::LinuxCpu| LinuxCpu {
        shares: unsigned(cpu.shares()),
        quota: signed(cpu.quota()),
        period: unsigned(cpu.period()),
        realtime_runtime: signed(cpu.realtime_runtime()),
        realtime_period: unsigned(cpu.realtime_period()),
        cpus: cpu.cpus().clone().unwrap_or_default(),
        mems: cpu.mems().clone().unwrap_or_default(),
    };
    let page = |limit: &oci::LinuxHugepageLimit| HugepageLimit {
        page_size: limit.page_size().clone(),
        limit: u64::try_from(limit.limit()).unwrap_or(0),
    };
    let rule = |rule: &oci::LinuxDeviceCgroup| LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map(|typ| typ.as_str().to_owned()).unwrap_or_default(),
        major: signed(rule.major()),
        minor: signed(rule.minor()),
        access: rule.access().clone().unwrap_or_default(),
    };
    LinuxResources {
        memory: limits.memory().as_ref().map(memory),
        cpu: limits.cpu().as_ref().map(cpu),
        hugepage_limits: limits.hugepage_limits().iter().flatten().map(page).collect(),
        unified: limits.unified().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
        devices: limits.devices().iter().flatten().map(rule).collect(),
        pids: limits.pids().map(|pids| LinuxPids { limit: pids.limit() }),
        ..LinuxResources::default()
    }
}
