//! What profiles mean, and that the compiled programs mean the same.

use std::collections::HashMap;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};
use proptest::prelude::*;

use super::compile::compile_for;
use super::interpreter::{Call, Interpreter};
use super::meaning::naive;
use super::table::{Abi, X32_BIT};
use super::*;
use crate::libcontainer::spec::capability;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

fn context(capabilities: &[Capability]) -> ProfileContext {
    let mask = capabilities.iter().fold(0, |mask, &one| mask | 1 << capability::number(one));
    ProfileContext { capabilities: mask, kernel: (6, 1), machine: Machine::X86_64 }
}

fn call(abi: Abi, name: &str, args: [u64; 6]) -> Call {
    let nr = *abi.numbers().get(name).unwrap_or_else(|| panic!("{name} on {abi:?}"));
    Call { nr, arch: abi.audit_arch(), args }
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
}

#[test]
fn a_second_value_that_is_not_there_is_zero() {
    let masked = |second: Option<u64>| {
        let builder = LinuxSeccompArgBuilder::default().op(LinuxSeccompOperator::ScmpCmpMaskedEq).value(7u64);
        let builder = if let Some(second) = second { builder.value_two(second) } else { builder };
        let arg = builder.build().unwrap();
        let mut profile = LinuxSeccomp::default();
        profile.set_syscalls(Some(vec![rule(vec!["clone"], LinuxSeccompAction::ScmpActErrno, vec![arg])]));
        compile(&profile).unwrap()
    };
    assert_eq!(masked(None), masked(Some(0)));
    assert_ne!(masked(None), masked(Some(1)));
}

#[test]
fn the_default_profile_means_what_it_should() {
    let filter = compile(&default_profile(&context(&capability::DEFAULT))).unwrap();
    let program = Interpreter::new(&filter.program);
    let verdict = |abi, name: &str, value| program.run(&call(abi, name, first(value))).0;
    for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
        assert_eq!(verdict(abi, "read", 0), ALLOW);
        assert_eq!(verdict(abi, "chroot", 0), ALLOW, "CAP_SYS_CHROOT is one of the defaults");
        for name in ["mount", "bpf", "unshare", "setns", "reboot", "keyctl", "add_key", "io_uring_setup", "userfaultfd"]
        {
            assert_eq!(verdict(abi, name, 0), ERRNO | EPERM, "{name} on {abi:?}");
        }
        assert_eq!(verdict(abi, "clone", 17), ALLOW);
        assert_eq!(verdict(abi, "clone", 0x1000_0000 | 17), ERRNO | EPERM, "CLONE_NEWUSER");
        assert_eq!(verdict(abi, "clone3", 0), ERRNO | ENOSYS);
        assert_eq!(verdict(abi, "socket", 1), ALLOW);
        assert_eq!(verdict(abi, "socket", 40), ERRNO | EPERM, "AF_VSOCK");
        assert_eq!(verdict(abi, "personality", 8), ALLOW);
        assert_eq!(verdict(abi, "personality", 0x40000), ERRNO | EPERM, "ADDR_NO_RANDOMIZE");
    }
    assert_eq!(verdict(Abi::X86_64, "socket", 1 << 32 | 40), ERRNO | EPERM, "the kernel drops the upper half");
    assert_eq!(verdict(Abi::X86_64, "arch_prctl", 0), ALLOW);
    assert_eq!(program.run(&Call { nr: 0, arch: 0xc000_00b7, args: [0; 6] }).0, KILL, "a foreign machine");
    for nr in [470, 1000, X32_BIT | 2000, u32::MAX] {
        assert_eq!(program.run(&Call { nr, arch: 0xc000_003e, args: [0; 6] }).0, ERRNO | ENOSYS, "{nr:#x} is new");
    }
    assert_eq!(filter.flags, 1 << 2);
}

#[test]
fn capabilities_open_the_default_profile() {
    let filter = compile(&default_profile(&context(&[Capability::SysAdmin, Capability::SysTime]))).unwrap();
    let program = Interpreter::new(&filter.program);
    let verdict = |name: &str, value| program.run(&call(Abi::X86_64, name, first(value))).0;
    for name in ["mount", "unshare", "setns", "clone3", "clock_settime"] {
        assert_eq!(verdict(name, 0), ALLOW, "{name}");
    }
    assert_eq!(verdict("clone", 0x1000_0000), ALLOW);
    assert_eq!(verdict("chroot", 0), ERRNO | EPERM);
}

#[test]
fn the_default_profile_is_small_and_quick() {
    let profile = default_profile(&context(&capability::DEFAULT));
    let program = Interpreter::new(&compile(&profile).unwrap().program);
    assert!(program.len() < 1000, "{} instructions", program.len());
    let numbers = Abi::X86_64.numbers();
    let longest = numbers.values().map(|&nr| program.run(&Call { nr, arch: 0xc000_003e, args: [0; 6] }).1).max();
    assert!(longest.unwrap() < 40, "{longest:?} instructions for one call");
}

#[test]
fn aarch64_has_a_default_profile_too() {
    let profile = default_profile(&ProfileContext { machine: Machine::Aarch64, ..context(&capability::DEFAULT) });
    let program = Interpreter::new(&compile_for(&profile, Machine::Aarch64).unwrap().program);
    let verdict = |abi, name: &str, value| program.run(&call(abi, name, first(value))).0;
    assert_eq!(verdict(Abi::Aarch64, "openat", 0), ALLOW);
    assert_eq!(verdict(Abi::Aarch64, "mount", 0), ERRNO | EPERM);
    assert_eq!(verdict(Abi::Arm, "set_tls", 0), ALLOW);
    assert_eq!(verdict(Abi::Arm, "open", 0), ALLOW);
    assert_eq!(verdict(Abi::Arm, "usr26", 0), ERRNO | EPERM);
}

#[test]
fn dockers_format_is_read() {
    let json = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["read", "no_such_call_at_all"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ERRNO", "errnoRet": 9},
            {"names": ["statx"], "action": "SCMP_ACT_LOG"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["open"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8", "arches": ["amd64", "x32"]}},
            {"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]}
        ]
    }"#;
    let verdicts = |caps: &[Capability]| {
        let profile = load_profile(json, &context(caps)).unwrap();
        let program = Interpreter::new(&compile_for(&profile, Machine::X86_64).unwrap().program);
        let names = ["read", "write", "mount", "open", "close", "lseek", "personality", "getpid"];
        names.map(|name| program.run(&call(Abi::X86_64, name, first(9))).0)
    };
    let (default, nine) = (ERRNO | 5, ERRNO | 9);
    assert_eq!(verdicts(&[]), [ALLOW, nine, default, ALLOW, ALLOW, default, ALLOW, default]);
    assert_eq!(verdicts(&[Capability::SysAdmin]), [ALLOW, nine, ALLOW, default, ALLOW, default, ALLOW, default]);

    for (bad, why) in [
        (&b"{}"[..], "defaultAction"),
        (br#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
        (br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#, "both"),
        (br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#, "both"),
        (br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#, "minKernel"),
    ] {
        let error = load_profile(bad, &context(&[])).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn profiles_that_cannot_be_kept_are_refused() {
    let mut notify = LinuxSeccomp::default();
    notify.set_default_action(LinuxSeccompAction::ScmpActNotify);
    assert_eq!(compile(&notify), Err(CompileError::Notify));
    let with = |arg| {
        let mut profile = LinuxSeccomp::default();
        profile.set_syscalls(Some(vec![rule(vec!["read"], LinuxSeccompAction::ScmpActErrno, vec![arg])]));
        compile(&profile).unwrap_err().to_string()
    };
    assert!(with(arg(6, LinuxSeccompOperator::ScmpCmpEq, 0, 0)).contains("argument 6"));
    let huge: Vec<LinuxSyscall> = (0..2000u64)
        .map(|value| {
            rule(
                vec!["read"],
                LinuxSeccompAction::ScmpActErrno,
                vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, value, 0)],
            )
        })
        .collect();
    let mut profile = LinuxSeccomp::default();
    profile.set_syscalls(Some(huge));
    assert!(matches!(compile(&profile), Err(CompileError::TooLong(_))));
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64, second: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(second).build().unwrap()
}

fn rule(names: Vec<&str>, action: LinuxSeccompAction, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect()).set_action(action).set_args(if args.is_empty() {
        None
    } else {
        Some(args)
    });
    rule
}

const NAMES: [&str; 14] = [
    "read",
    "write",
    "open",
    "close",
    "mmap",
    "clone",
    "clone3",
    "execve",
    "socketcall",
    "time",
    "set_tls",
    "file_setattr",
    "openat",
    "no_such_call",
];
const VALUES: [u64; 9] = [0, 1, 2, 40, 0xffff_ffff, 1 << 32, 1 << 32 | 1, 1 << 63, u64::MAX];

fn any_arg() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator as Op;
    let ops = vec![
        Op::ScmpCmpEq,
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpGt,
        Op::ScmpCmpGe,
        Op::ScmpCmpMaskedEq,
    ];
    let value = || prop::sample::select(VALUES.to_vec());
    (0usize..3, prop::sample::select(ops), value(), value()).prop_map(|(index, op, a, b)| arg(index, op, a, b))
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    use LinuxSeccompAction as Act;
    let actions = || {
        prop::sample::select(vec![
            Act::ScmpActAllow,
            Act::ScmpActErrno,
            Act::ScmpActKillProcess,
            Act::ScmpActLog,
            Act::ScmpActTrap,
            Act::ScmpActTrace,
            Act::ScmpActKill,
        ])
    };
    let arches = prop::sample::subsequence(
        vec![Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchX86_64, Arch::ScmpArchArm, Arch::ScmpArchMips],
        0..5,
    );
    let names = prop::sample::subsequence(NAMES.to_vec(), 1..8);
    let rules = prop::collection::vec((names, actions(), prop::collection::vec(any_arg(), 0..4)), 0..12);
    (actions(), arches, rules).prop_map(|(default, arches, rules)| {
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(default)
            .set_architectures(Some(arches))
            .set_syscalls(Some(rules.into_iter().map(|(names, action, args)| rule(names, action, args)).collect()));
        profile
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_program_decides_as_its_profile_says(
        profile in any_profile(),
        arm: bool,
        args in prop::collection::vec(prop::array::uniform6(prop::sample::select(VALUES.to_vec())), 4),
    ) {
        let machine = if arm { Machine::Aarch64 } else { Machine::X86_64 };
        let abis = if arm { vec![Abi::Aarch64, Abi::Arm] } else { vec![Abi::X86_64, Abi::X32, Abi::I386] };
        let tables: HashMap<Abi, HashMap<&str, u32>> = abis.iter().map(|&abi| (abi, abi.numbers())).collect();
        let program = Interpreter::new(&compile_for(&profile, machine).unwrap().program);
        for &abi in &abis {
            let mut numbers: Vec<u32> = NAMES.iter().filter_map(|name| tables[&abi].get(name).copied()).collect();
            numbers.extend(numbers.clone().iter().flat_map(|&nr| [nr.saturating_sub(1), nr.saturating_add(1)]));
            numbers.extend([0, 469, 470, 0xeffff, 0xf0001, 0xf0007, X32_BIT - 1, X32_BIT, u32::MAX - 1, u32::MAX]);
            for nr in numbers {
                for args in &args {
                    let call = Call { nr, arch: abi.audit_arch(), args: *args };
                    let expected = naive(&profile, machine, &call, &tables);
                    prop_assert_eq!(program.run(&call).0, expected, "{:?} {:?}", abi, call);
                }
            }
        }
    }
}
