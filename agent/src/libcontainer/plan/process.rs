//! The program and its credentials, of a container and of what is exec'd into it.

use oci_spec::runtime::{LinuxCapabilities, PosixRlimitType, Process, Spec};

use super::{Capabilities, PlanError, ProcessPlan, Rlimit, Warning, is_mapped, scheduling, text};
use crate::libcontainer::seccomp::Filter;
use crate::libcontainer::spec::{HostFacts, capability, raw_environment};

/// The container's own process, with what had to be clamped.
///
/// # Errors
/// `PlanError`: the `Spec` has no process or program, or a seccomp profile without its filter.
pub fn process_plan(
    spec: &Spec,
    host: &HostFacts,
    filter: Option<&Filter>,
) -> Result<(ProcessPlan, Vec<Warning>), PlanError> {
    let process = spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.seccomp().is_some()) && filter.is_none() {
        return Err(PlanError::NoFilter);
    }
    // Whoever is born in a user namespace holds every capability there is in it.
    let mapped = linux.is_some_and(|linux| is_mapped(linux.uid_mappings().as_ref()));
    let held = if mapped { u64::MAX } else { host.held_caps };
    let mut warnings = Vec::new();
    let console = process.console_size();
    let user = process.user();
    let plan = ProcessPlan {
        args: process.args().clone().unwrap_or_default(),
        env: raw_environment(spec),
        cwd: text(process.cwd())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process.capabilities().as_ref(), held, &mut warnings),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process),
        oom_score_adj: process.oom_score_adj().map(|score| oom_score_adj(score, host, &mut warnings)),
        seccomp_filter: filter.map(|filter| filter.program.clone()).unwrap_or_default(),
        seccomp_flags: filter.map_or(0, |filter| filter.flags),
        apparmor_profile: process.apparmor_profile().clone().unwrap_or_default(),
        selinux_label: process.selinux_label().clone().unwrap_or_default(),
        tty_columns: console.map_or(0, |size| size.width() as u32),
        tty_rows: console.map_or(0, |size| size.height() as u32),
        io_priority: process.io_priority().as_ref().map(scheduling::io_priority).transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduling::scheduler),
        personality: linux.and_then(|linux| linux.personality().as_ref()).map(scheduling::personality).transpose()?,
    };
    if plan.args.is_empty() {
        return Err(PlanError::Missing("program to run"));
    }
    Ok((plan, warnings))
}

/// What is exec'd into a container: the container's own user, groups, environment, working directory, capabilities,
/// limits and filters, with another command.
///
/// # Errors
/// `PlanError`: the `Spec` has no process, or a seccomp profile without its filter.
pub fn exec_plan(
    spec: &Spec,
    host: &HostFacts,
    filter: Option<&Filter>,
    command: &[String],
    tty: bool,
) -> Result<ProcessPlan, PlanError> {
    if command.is_empty() {
        return Err(PlanError::Missing("program to run"));
    }
    // What was clamped was told when the container was made.
    let (mut plan, _) = process_plan(spec, host, filter)?;
    plan.args = command.to_vec();
    plan.tty_columns = 0;
    plan.tty_rows = 0;
    if tty && !plan.env.iter().any(|pair| pair.starts_with(b"TERM=")) {
        plan.env.push(b"TERM=xterm".to_vec());
    }
    Ok(plan)
}

fn capabilities(sets: Option<&LinuxCapabilities>, held: u64, warnings: &mut Vec<Warning>) -> Capabilities {
    let Some(sets) = sets else { return Capabilities::default() };
    let masks = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]
        .map(|set| capability::mask(set.as_ref()));
    let withheld = masks.iter().fold(0, |all, mask| all | mask) & !held;
    if withheld != 0 {
        let mut names: Vec<String> = capability::from_mask(withheld).iter().map(|one| format!("CAP_{one}")).collect();
        names.sort();
        warnings.push(Warning::Capabilities(names.join(", ")));
    }
    let [bounding, effective, permitted, inheritable, ambient] = masks.map(|mask| mask & held);
    Capabilities { bounding, effective, permitted, inheritable, ambient }
}

fn oom_score_adj(asked: i32, host: &HostFacts, warnings: &mut Vec<Warning>) -> i32 {
    let score = host.oom_score_adj_for(asked);
    if score != asked {
        warnings.push(Warning::OomScoreAdj { lowest: host.oom_score_adj });
    }
    score
}

fn rlimits(process: &Process) -> Vec<Rlimit> {
    let list = process.rlimits().as_deref().unwrap_or_default();
    list.iter().map(|limit| Rlimit { resource: number(limit.typ()), soft: limit.soft(), hard: limit.hard() }).collect()
}

/// By number (include/uapi/asm-generic/resource.h).
const RLIMITS: [PosixRlimitType; 16] = [
    PosixRlimitType::RlimitCpu,
    PosixRlimitType::RlimitFsize,
    PosixRlimitType::RlimitData,
    PosixRlimitType::RlimitStack,
    PosixRlimitType::RlimitCore,
    PosixRlimitType::RlimitRss,
    PosixRlimitType::RlimitNproc,
    PosixRlimitType::RlimitNofile,
    PosixRlimitType::RlimitMemlock,
    PosixRlimitType::RlimitAs,
    PosixRlimitType::RlimitLocks,
    PosixRlimitType::RlimitSigpending,
    PosixRlimitType::RlimitMsgqueue,
    PosixRlimitType::RlimitNice,
    PosixRlimitType::RlimitRtprio,
    PosixRlimitType::RlimitRttime,
];

fn number(kind: PosixRlimitType) -> u32 {
    RLIMITS.iter().position(|one| *one == kind).map_or(u32::MAX, |number| number as u32)
}

/// The inverse of what a plan has.
pub(crate) fn rlimit_type(number: u32) -> Option<PosixRlimitType> {
    RLIMITS.get(number as usize).copied()
}
