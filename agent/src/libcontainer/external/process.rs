//! A process as the runtime-spec has it: the container's own in config.json, and what is exec'd into it.

use oci_spec::runtime::{LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, Process, User};

use crate::libcontainer::plan::{Capabilities, PlanError, ProcessPlan, Rlimit, rlimit_type};
use crate::libcontainer::spec::capability::from_mask;

/// A process with what our own init would give it, but for the system call filter, which the runtime has from the container's.
///
/// # Errors
/// `PlanError`: JSON is text, and the environment is not.
pub fn oci_process(plan: &ProcessPlan, tty: bool) -> Result<Process, PlanError> {
    let text = |pair: &Vec<u8>| String::from_utf8(pair.clone());
    let env = plan.env.iter().map(text).collect::<Result<Vec<_>, _>>().map_err(|_| PlanError::Unsupported {
        field: "process.env",
        reason: "has a value that is not UTF-8, which an OCI runtime cannot be told",
    })?;
    let mut user = User::default();
    user.set_uid(plan.uid).set_gid(plan.gid).set_additional_gids(Some(plan.groups.clone())).set_umask(plan.umask);
    let optional = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut process = Process::default();
    process
        .set_terminal(Some(tty))
        .set_user(user)
        .set_args(Some(plan.args.clone()))
        .set_env(Some(env))
        .set_cwd(if plan.cwd.is_empty() { "/".into() } else { plan.cwd.clone().into() })
        .set_capabilities(Some(capabilities(&plan.capabilities)))
        .set_rlimits(Some(plan.rlimits.iter().filter_map(rlimit).collect()))
        .set_no_new_privileges(Some(plan.no_new_privileges))
        .set_apparmor_profile(optional(&plan.apparmor_profile))
        .set_selinux_label(optional(&plan.selinux_label))
        .set_oom_score_adj(plan.oom_score_adj);
    Ok(process)
}

fn capabilities(plan: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(from_mask(plan.bounding)))
        .set_effective(Some(from_mask(plan.effective)))
        .set_permitted(Some(from_mask(plan.permitted)))
        .set_inheritable(Some(from_mask(plan.inheritable)))
        .set_ambient(Some(from_mask(plan.ambient)));
    sets
}

fn rlimit(limit: &Rlimit) -> Option<PosixRlimit> {
    let kind = rlimit_type(limit.resource)?;
    PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build().ok()
}
