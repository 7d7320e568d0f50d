//! How the kernel is to schedule a process: processor, disk, execution domain (OCI runtime-spec, `process`).

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy,
};

use super::{PlanError, Scheduler};

/// ioprio_set(2)'s number.
pub(super) fn io_priority(asked: &LinuxIOPriority) -> Result<u32, PlanError> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(asked.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(PlanError::Unsupported { field: "process.ioPriority.priority", reason: "is not from 0 to 7" }),
    }
}

/// linux/sched.h, linux/sched/types.h.
pub(super) fn scheduler(asked: &oci_spec::runtime::Scheduler) -> Scheduler {
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Scheduler {
        policy,
        flags: asked.flags().iter().flatten().fold(0, |bits, one| bits | flag(one)),
        nice: asked.nice().unwrap_or(0),
        priority: asked.priority().and_then(|priority| u32::try_from(priority).ok()).unwrap_or(0),
        runtime: asked.runtime().unwrap_or(0),
        deadline: asked.deadline().unwrap_or(0),
        period: asked.period().unwrap_or(0),
    }
}

/// linux/personality.h.
pub(super) fn personality(asked: &LinuxPersonality) -> Result<u32, PlanError> {
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(PlanError::Unsupported { field: "linux.personality.flags", reason: "is not supported" });
    }
    Ok(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}
