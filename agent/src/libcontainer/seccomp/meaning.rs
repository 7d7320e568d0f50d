//! What a profile means, rule by rule, for whoever compares a compiled program with it.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::interpreter::Call;
use super::table::{Abi, Machine, X32_BIT};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = 38;

/// The meaning of a profile, rule by rule.
pub(super) fn naive(
    profile: &LinuxSeccomp,
    machine: Machine,
    call: &Call,
    names: &HashMap<Abi, HashMap<&str, u32>>,
) -> u32 {
    let native = Abi::of(machine.arch(), machine).expect("every machine has its own");
    let listed = profile.architectures().iter().flatten().filter_map(|&arch| Abi::of(arch, machine));
    let abis: Vec<Abi> = std::iter::once(native).chain(listed).collect();
    let x32 = machine == Machine::X86_64 && call.nr >= X32_BIT && call.arch == native.audit_arch();
    let fits = |abi: &&Abi| abi.audit_arch() == call.arch && (machine != Machine::X86_64 || (**abi == Abi::X32) == x32);
    // The data of a verdict has sixteen bits (seccomp(2)).
    let verdict_of = |action: LinuxSeccompAction, data: Option<u32>| action.as_u32(data.map(|data| data & 0xffff));
    let default = verdict_of(profile.default_action(), profile.default_errno_ret());
    let known = abis.iter().any(|abi| abi.audit_arch() == call.arch);
    let Some(abi) = abis.iter().find(fits) else {
        return if known && call.nr == u32::MAX { default } else { KILL };
    };
    let numbers = &names[abi];
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let named = rules.iter().flat_map(|rule| rule.names()).filter_map(|name| numbers.get(name.as_str()).copied());
    let matching =
        rules.iter().filter(|rule| rule.names().iter().any(|name| numbers.get(name.as_str()) == Some(&call.nr)));
    let narrow = matches!(abi, Abi::I386 | Abi::Arm);
    let verdict = matching.filter(|rule| holds(rule.args().as_deref().unwrap_or_default(), call, narrow));
    let strictest = verdict
        .map(|rule| verdict_of(rule.action(), rule.errno_ret()))
        .min_by_key(|action| (action & 0xffff_0000) as i32);
    let private = |nr: u32| *abi == Abi::Arm && nr >= 0xf0000;
    let newest = named.filter(|&nr| !private(nr)).max();
    let is_new = newest.is_some_and(|newest| call.nr > newest) && !private(call.nr);
    let permissive = matches!(default, 0x7ffc_0000 | ALLOW);
    match strictest {
        Some(action) => action,
        None if is_new && !permissive => ERRNO | ENOSYS,
        None => default,
    }
}

fn holds(args: &[LinuxSeccompArg], call: &Call, narrow: bool) -> bool {
    use LinuxSeccompOperator as Op;
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let one = |arg: &LinuxSeccompArg| {
        let (actual, value) = (cut(call.args[arg.index()]), cut(arg.value()));
        match arg.op() {
            Op::ScmpCmpEq => actual == value,
            Op::ScmpCmpNe => actual != value,
            Op::ScmpCmpLt => actual < value,
            Op::ScmpCmpLe => actual <= value,
            Op::ScmpCmpGt => actual > value,
            Op::ScmpCmpGe => actual >= value,
            Op::ScmpCmpMaskedEq => actual & value == cut(arg.value_two().unwrap_or(0)),
        }
    };
    let repeated = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    if repeated { args.iter().any(one) } else { args.iter().all(one) }
}
