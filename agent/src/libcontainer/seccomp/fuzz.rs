//! What has to hold for any profile: the kernel takes the program, and it decides as the profile says.

use std::collections::{BTreeSet, HashMap};

use oci_spec::runtime::LinuxSeccomp;

use super::compile::compile_for;
use super::interpreter::{Call, Interpreter};
use super::meaning::naive;
use super::table::{Abi, Machine, X32_BIT};
use super::{ProfileContext, load_profile};
use crate::fuzz::Input;

/// Calls that are tried on a program: enough to meet each rule, and not so many that a large profile takes long.
const CALLS: usize = 2000;

/// The first bytes say for what machine, kernel and capabilities.
pub(crate) fn profile(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = input.pick(&[Machine::X86_64, Machine::Aarch64]);
    let capabilities = u64::from(input.word());
    let context = ProfileContext { capabilities, kernel: (u32::from(input.byte() % 8), 1), machine };
    let Ok(profile) = load_profile(input.rest(), &context) else { return };
    let Ok(filter) = compile_for(&profile, machine) else { return };
    let program = Interpreter::new(&filter.program);
    let abis = match machine {
        Machine::X86_64 => [Abi::X86_64, Abi::X32, Abi::I386].as_slice(),
        Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
    };
    let tables: HashMap<Abi, HashMap<&str, u32>> = abis.iter().map(|&abi| (abi, abi.numbers())).collect();
    for &abi in abis {
        let calls = calls(&profile, &tables[&abi]);
        for (nr, args) in calls.into_iter().take(CALLS) {
            let call = Call { nr, arch: abi.audit_arch(), args };
            assert_eq!(program.run(&call).0, naive(&profile, machine, &call, &tables), "{abi:?} {call:?} {profile:?}");
        }
    }
    assert_eq!(program.run(&Call { nr: 0, arch: 0, args: [0; 6] }).0, 0x8000_0000, "a foreign machine");
}

/// The calls that rules name and their neighbours, with the arguments that rules compare and theirs.
fn calls(profile: &LinuxSeccomp, numbers: &HashMap<&str, u32>) -> Vec<(u32, [u64; 6])> {
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let mut calls = Vec::new();
    for rule in rules {
        let named = rule.names().iter().filter_map(|name| numbers.get(name.as_str()).copied());
        let mut args = vec![[0; 6], [u64::MAX; 6]];
        for arg in rule.args().iter().flatten() {
            for value in [arg.value(), arg.value_two().unwrap_or(0)] {
                for value in [value.wrapping_sub(1), value, value.wrapping_add(1), value ^ 1 << 32] {
                    let mut changed = args[args.len() - 1];
                    changed[arg.index()] = value;
                    args.push(changed);
                }
            }
        }
        for nr in named.flat_map(|nr| [nr, nr.saturating_sub(1), nr.saturating_add(1)]) {
            calls.extend(args.iter().map(|args| (nr, *args)));
        }
    }
    let edges =
        BTreeSet::from([0, 1000, 0xeffff, 0xf0001, X32_BIT - 1, X32_BIT, X32_BIT | 2000, u32::MAX - 1, u32::MAX]);
    edges.into_iter().map(|nr| (nr, [0; 6])).chain(calls).collect()
}
