//! `LinuxSeccomp` to classic BPF: per architecture the system call numbers become intervals with one verdict each, and
//! the intervals a balanced tree of comparisons.
//!
//! When several rules match a call, the most restrictive action wins, in the kernel's own order (seccomp(2)); a call
//! that no rule matches gets the default action. So nothing a profile refuses is let through by another of its rules.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};

use super::table::{Abi, Machine, X32_BIT};

mod emit;

use emit::{Program, Target};

/// BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;
const ENOSYS: u32 = 38;
/// Where arm's own calls begin, and where no other table has any.
const ARM_PRIVATE: u32 = 0x0f_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Array of `struct sock_filter`, native endian.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
}

/// A profile that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A listener has to be there to answer.
    #[error("SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// System calls have arguments 0 to 5.
    #[error("the rule for {name:?} looks at argument {index}; there are only 0 to 5")]
    ArgumentIndex {
        /// First name of the rule.
        name: String,
        /// As given.
        index: usize,
    },
    /// More than the kernel takes.
    #[error("needs {0} instructions; the kernel takes 4096")]
    TooLong(usize),
}

/// Compiles for the machine that this program runs on.
///
/// # Errors
/// `CompileError`. A system call that the tables do not have is skipped: no filter can catch what has no number.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, CompileError> {
    compile_for(profile, Machine::native())
}

pub(super) fn compile_for(profile: &LinuxSeccomp, machine: Machine) -> Result<Filter, CompileError> {
    let rules = rules(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut program = Program::new();
    // One subtree for each value of `seccomp_data.arch`; an unlisted one kills, as libseccomp's does.
    let mut next = Target::Return(KILL_PROCESS);
    for (arch, abis) in by_audit_arch(profile, machine).into_iter().rev() {
        let mut verdicts: BTreeMap<u32, usize> = BTreeMap::new();
        let mut bodies = vec![Body::Return(default)];
        for &abi in &abis {
            verdicts.extend(verdicts_of(abi, &rules, default, &mut bodies));
        }
        let intervals = intervals(&abis, &verdicts, default, &mut bodies);
        let targets: Vec<Target> = bodies.iter().map(|body| body.emit(&mut program, default)).collect();
        let tree = tree(&mut program, &intervals, &targets);
        let start = program.load_number(tree);
        next = program.branch_equal(arch, start, next);
    }
    let program = program.finish(next);
    if program.len() / 8 > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(program.len() / 8));
    }
    Ok(Filter { program, flags: flags(profile.flags().as_deref()) })
}

/// Speculative-store-bypass mitigation is left to the program itself unless the profile lists its own flags, as in runc.
fn flags(list: Option<&[LinuxSeccompFilterFlag]>) -> u32 {
    const SPEC_ALLOW: u32 = 1 << 2;
    list.map_or(SPEC_ALLOW, |list| {
        list.iter().fold(0, |bits, flag| {
            bits | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                // Only means something with a listener; the kernel refuses it without one.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
        })
    })
}

/// SECCOMP_RET_* with its data.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(CompileError::Notify);
    }
    Ok(action.as_u32(errno.map(|errno| errno & 0xffff)))
}

/// The kernel's precedence: the smaller action value, as a signed number, is the stricter (kernel/seccomp.c).
fn strictness(action: u32) -> i32 {
    (action & 0xffff_0000) as i32
}

/// One comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Check {
    index: u32,
    op: emit::Compare,
    mask: u64,
    value: u64,
}

/// All checks have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative {
    checks: Vec<Check>,
    action: u32,
}

struct Rule<'a> {
    names: &'a [String],
    alternatives: Vec<Alternative>,
}

fn rules(profile: &LinuxSeccomp) -> Result<Vec<Rule<'_>>, CompileError> {
    let list = profile.syscalls().as_deref().unwrap_or_default();
    list.iter().map(|rule| Ok(Rule { names: rule.names(), alternatives: alternatives(rule)? })).collect()
}

/// Arguments are joined by *and*, but two checks of the same argument make each check a rule of its own (runc's
/// reading of the OCI runtime-spec).
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Alternative>, CompileError> {
    let action = action(rule.action(), rule.errno_ret())?;
    let name = || rule.names().first().cloned().unwrap_or_default();
    let args = rule.args().as_deref().unwrap_or_default();
    let checks = args.iter().map(|arg| check(arg, name)).collect::<Result<Vec<_>, _>>()?;
    let repeated = (0..6).any(|index| checks.iter().filter(|check| check.index == index).count() > 1);
    Ok(if repeated {
        checks.into_iter().map(|check| Alternative { checks: vec![check], action }).collect()
    } else {
        vec![Alternative { checks, action }]
    })
}

fn check(arg: &LinuxSeccompArg, name: impl Fn() -> String) -> Result<Check, CompileError> {
    use emit::Compare;
    use oci_spec::runtime::LinuxSeccompOperator as Op;
    if arg.index() > 5 {
        return Err(CompileError::ArgumentIndex { name: name(), index: arg.index() });
    }
    let plain = |op| Check { index: arg.index() as u32, op, mask: u64::MAX, value: arg.value() };
    Ok(match arg.op() {
        Op::ScmpCmpEq => plain(Compare::Equal),
        Op::ScmpCmpNe => plain(Compare::NotEqual),
        Op::ScmpCmpGe => plain(Compare::GreaterEqual),
        Op::ScmpCmpGt => plain(Compare::Greater),
        Op::ScmpCmpLe => plain(Compare::LessEqual),
        Op::ScmpCmpLt => plain(Compare::Less),
        Op::ScmpCmpMaskedEq => {
            // Who writes profiles in Go leaves a zero out.
            let value = arg.value_two().unwrap_or(0);
            Check { index: arg.index() as u32, op: Compare::Equal, mask: arg.value(), value }
        }
    })
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Return(u32),
    /// The first alternative that holds; none: the default.
    Choose {
        alternatives: Vec<Alternative>,
        narrow: bool,
    },
}

impl Body {
    fn emit(&self, program: &mut Program, default: u32) -> Target {
        match self {
            Body::Return(action) => Target::Return(*action),
            Body::Choose { alternatives, narrow } => {
                let mut next = Target::Return(default);
                for alternative in alternatives.iter().rev() {
                    let mut success = Target::Return(alternative.action);
                    for check in alternative.checks.iter().rev() {
                        let Check { index, op, mask, value } = *check;
                        success = program.check(index, op, mask, value, *narrow, success, next);
                    }
                    next = success;
                }
                next
            }
        }
    }
}

/// The body's index for each number that a rule names.
fn verdicts_of(abi: Abi, rules: &[Rule<'_>], default: u32, bodies: &mut Vec<Body>) -> BTreeMap<u32, usize> {
    let numbers = abi.numbers();
    let mut calls: BTreeMap<u32, Vec<&Alternative>> = BTreeMap::new();
    for rule in rules {
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            calls.entry(*number).or_default().extend(&rule.alternatives);
        }
    }
    let narrow = matches!(abi, Abi::I386 | Abi::Arm);
    calls.into_iter().map(|(number, list)| (number, intern(bodies, body(list, default, narrow)))).collect()
}

/// Strictest first; what comes after an alternative without checks can never be reached.
fn body(mut list: Vec<&Alternative>, default: u32, narrow: bool) -> Body {
    list.sort_by_key(|alternative| strictness(alternative.action));
    let mut alternatives: Vec<Alternative> = Vec::new();
    for alternative in list {
        if alternative.checks.is_empty() {
            if alternatives.iter().all(|earlier| earlier.action == alternative.action) {
                return Body::Return(alternative.action);
            }
            alternatives.push(alternative.clone());
            break;
        }
        if !alternatives.contains(alternative) {
            alternatives.push(alternative.clone());
        }
    }
    if alternatives.is_empty() { Body::Return(default) } else { Body::Choose { alternatives, narrow } }
}

fn intern(bodies: &mut Vec<Body>, body: Body) -> usize {
    match bodies.iter().position(|known| *known == body) {
        Some(index) => index,
        None => {
            bodies.push(body);
            bodies.len() - 1
        }
    }
}

/// The first number of each interval, with its body's index; the first interval starts at 0.
fn intervals(abis: &[Abi], verdicts: &BTreeMap<u32, usize>, default: u32, bodies: &mut Vec<Body>) -> Vec<(u32, usize)> {
    let mut list: Vec<(u32, usize)> = Vec::new();
    let mut push = |start: u32, body: usize| {
        if list.last().is_none_or(|last| last.1 != body) {
            list.push((start, body));
        }
    };
    // libseccomp kills x32 calls under a filter for x86_64 alone, but for -1: a tracer's "skip this call".
    let foreign_x32 = abis == [Abi::X86_64];
    let kill = intern(bodies, Body::Return(KILL_PROCESS));
    let above = |number: u32, bodies: &mut Vec<Body>| above_highest(number, verdicts, default, bodies);

    let second_tables: &[u32] = match abis {
        [.., Abi::Arm] | [Abi::Arm, ..] => &[ARM_PRIVATE],
        _ if abis.contains(&Abi::X32) => &[X32_BIT],
        _ => &[],
    };
    let mut unnamed = 0;
    let mut next = 0u64;
    for (&number, &body) in verdicts {
        if u64::from(number) > next {
            push(next as u32, unnamed);
        }
        push(number, body);
        next = u64::from(number) + 1;
        unnamed = above(number, bodies);
        // A second table begins: what is unnamed there is not newer than the first one's calls.
        let following = verdicts.range(number.saturating_add(1)..).next().map_or(u32::MAX, |(&number, _)| number);
        for table in second_tables.iter().copied().filter(|&table| number < table && table < following) {
            push(next as u32, unnamed);
            (unnamed, next) = (0, u64::from(table));
        }
    }
    if next <= u64::from(u32::MAX) {
        push(next as u32, unnamed);
    }
    if foreign_x32 {
        push(X32_BIT, kill);
        push(u32::MAX, 0);
    }
    list
}

/// A call that is newer than every call of its table that the profile names gets ENOSYS, so that the C library falls
/// back to an older one instead of failing with EPERM (runc does the same). A profile that allows by default is let be.
fn above_highest(number: u32, verdicts: &BTreeMap<u32, usize>, default: u32, bodies: &mut Vec<Body>) -> usize {
    let table_end = match number {
        X32_BIT.. => u32::MAX,
        ARM_PRIVATE.. => return 0,
        _ => ARM_PRIVATE - 1,
    };
    let permissive = strictness(default) >= strictness(0x7ffc_0000);
    let highest = verdicts.range(number.saturating_add(1)..=table_end).next().is_none();
    if highest && !permissive { intern(bodies, Body::Return(0x0005_0000 | ENOSYS)) } else { 0 }
}

/// A tree of `>=` over the intervals' starts: log2(n) comparisons a call.
fn tree(program: &mut Program, intervals: &[(u32, usize)], targets: &[Target]) -> Target {
    match intervals {
        [] => Target::Return(KILL_PROCESS),
        [(_, body)] => targets[*body],
        _ => {
            let (low, high) = intervals.split_at(intervals.len() / 2);
            let above = tree(program, high, targets);
            let below = tree(program, low, targets);
            if above == below { above } else { program.branch_at_least(high[0].0, above, below) }
        }
    }
}

/// The native ABI is always there; those that cannot run here are left out.
fn by_audit_arch(profile: &LinuxSeccomp, machine: Machine) -> BTreeMap<u32, Vec<Abi>> {
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let mut groups: BTreeMap<u32, Vec<Abi>> = BTreeMap::new();
    for abi in std::iter::once(Arch::ScmpArchNative).chain(listed.iter().copied()) {
        if let Some(abi) = Abi::of(abi, machine) {
            let group = groups.entry(abi.audit_arch()).or_default();
            if !group.contains(&abi) {
                group.push(abi);
            }
        }
    }
    groups
}
