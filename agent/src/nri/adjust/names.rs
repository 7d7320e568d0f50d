//! Kinds of things that NRI has as words and the OCI's types as enums.

use nri_api::v1alpha1::{
    IoPrioClass, LinuxIoPriority, LinuxScheduler, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    LinuxSeccomp, LinuxSeccompArg, LinuxSyscall, PosixRlimit,
};
use oci_spec::runtime as oci;
use serde_json::{Value, json};

use super::{AdjustError, invalid};

pub(super) fn rlimit_kind(name: &str) -> Result<oci::PosixRlimitType, AdjustError> {
    serde_json::from_value(Value::from(name))
        .map_err(|_| invalid("rlimits", name, "is no limit of a process, as RLIMIT_NOFILE is"))
}

pub(super) fn rlimit(asked: &PosixRlimit) -> Result<oci::PosixRlimit, AdjustError> {
    let limit = json!({"type": asked.r#type, "soft": asked.soft, "hard": asked.hard});
    serde_json::from_value(limit).map_err(|error| invalid("rlimits", error.to_string(), "is what is wrong with it"))
}

pub(super) fn device(kind: &str) -> Result<oci::LinuxDeviceType, AdjustError> {
    match kind {
        "c" | "u" => Ok(oci::LinuxDeviceType::C),
        "b" => Ok(oci::LinuxDeviceType::B),
        "p" => Ok(oci::LinuxDeviceType::P),
        _ => Err(invalid("linux.devices", kind, "is no kind of device: c, b or p")),
    }
}

/// What anybody may do with a device by its mode; all where nothing is said of it.
pub(super) fn access(mode: Option<u32>) -> String {
    let Some(mode) = mode else { return "rwm".to_owned() };
    let read = if mode & 0o444 != 0 { "r" } else { "" };
    let write = if mode & 0o222 != 0 { "w" } else { "" };
    format!("{read}{write}m")
}

/// `None` takes what there is away.
pub(super) fn io_priority(asked: &LinuxIoPriority) -> Result<Option<oci::LinuxIOPriority>, AdjustError> {
    let class = match IoPrioClass::try_from(asked.class) {
        Ok(IoPrioClass::IoprioClassNone) => return Ok(None),
        Ok(class) => class.as_str_name(),
        Err(_) => return Err(invalid("linux.io_priority", asked.class.to_string(), "is no class")),
    };
    let priority = json!({"class": class, "priority": asked.priority});
    serde_json::from_value(priority)
        .map(Some)
        .map_err(|error| invalid("linux.io_priority", error.to_string(), "is what is wrong with it"))
}

/// `None` takes what there is away.
pub(super) fn scheduler(asked: &LinuxScheduler) -> Result<Option<oci::Scheduler>, AdjustError> {
    let field = "linux.scheduler";
    let policy = match Policy::try_from(asked.policy) {
        Ok(Policy::SchedNone) => return Ok(None),
        Ok(Policy::SchedOther) => oci::LinuxSchedulerPolicy::SchedOther,
        Ok(Policy::SchedFifo) => oci::LinuxSchedulerPolicy::SchedFifo,
        Ok(Policy::SchedRr) => oci::LinuxSchedulerPolicy::SchedRr,
        Ok(Policy::SchedBatch) => oci::LinuxSchedulerPolicy::SchedBatch,
        Ok(Policy::SchedIso) => oci::LinuxSchedulerPolicy::SchedIso,
        Ok(Policy::SchedIdle) => oci::LinuxSchedulerPolicy::SchedIdle,
        Ok(Policy::SchedDeadline) => oci::LinuxSchedulerPolicy::SchedDeadline,
        Err(_) => return Err(invalid(field, asked.policy.to_string(), "is no policy")),
    };
    let flag = |flag: &i32| match Flag::try_from(*flag) {
        Ok(Flag::SchedFlagResetOnFork) => Ok(oci::LinuxSchedulerFlag::SchedResetOnFork),
        Ok(Flag::SchedFlagReclaim) => Ok(oci::LinuxSchedulerFlag::SchedFlagReclaim),
        Ok(Flag::SchedFlagDlOverrun) => Ok(oci::LinuxSchedulerFlag::SchedFlagDLOverrun),
        Ok(Flag::SchedFlagKeepPolicy) => Ok(oci::LinuxSchedulerFlag::SchedFlagKeepPolicy),
        Ok(Flag::SchedFlagKeepParams) => Ok(oci::LinuxSchedulerFlag::SchedFlagKeepParams),
        Ok(Flag::SchedFlagUtilClampMin) => Ok(oci::LinuxSchedulerFlag::SchedFlagUtilClampMin),
        Ok(Flag::SchedFlagUtilClampMax) => Ok(oci::LinuxSchedulerFlag::SchedFlagUtilClampMax),
        Err(_) => Err(invalid(field, flag.to_string(), "is no flag")),
    };
    let flags = asked.flags.iter().map(flag).collect::<Result<Vec<_>, AdjustError>>()?;
    let mut scheduler = oci::Scheduler::default();
    scheduler
        .set_policy(policy)
        .set_nice(Some(asked.nice).filter(|nice| *nice != 0))
        .set_priority(Some(asked.priority).filter(|priority| *priority != 0))
        .set_flags(Some(flags).filter(|flags| !flags.is_empty()))
        .set_runtime(Some(asked.runtime).filter(|time| *time != 0))
        .set_deadline(Some(asked.deadline).filter(|time| *time != 0))
        .set_period(Some(asked.period).filter(|time| *time != 0));
    Ok(Some(scheduler))
}

/// Words and numbers as a profile's file has them, so that the same parser judges them.
pub(super) fn seccomp(asked: &LinuxSeccomp) -> Result<oci::LinuxSeccomp, AdjustError> {
    if !asked.listener_path.is_empty() {
        let reason = "this version of berth hands no system calls to listeners (listener_path)";
        return Err(AdjustError::Unsupported { field: "linux.seccomp_policy", reason });
    }
    let condition = |arg: &LinuxSeccompArg| json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op});
    let rule = |rule: &LinuxSyscall| {
        let conditions: Vec<Value> = rule.args.iter().map(condition).collect();
        json!({
            "names": rule.names, "action": rule.action, "errnoRet": rule.errno_ret.map(|errno| errno.value),
            "args": conditions,
        })
    };
    let profile = json!({
        "defaultAction": asked.default_action,
        "defaultErrnoRet": asked.default_errno.map(|errno| errno.value),
        "architectures": asked.architectures,
        "flags": asked.flags,
        "syscalls": asked.syscalls.iter().map(rule).collect::<Vec<_>>(),
    });
    serde_json::from_value(profile)
        .map_err(|error| invalid("linux.seccomp_policy", error.to_string(), "is what is wrong with it"))
}
