//! Device rules: lines for v1's devices.allow and devices.deny, or a program for v2, which has no such files.

use std::os::fd::{AsFd, AsRawFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::OFlags;

use super::{CgroupError, Layout};
use crate::sys::bpf;

/// Applies the rules in their order; a later one beats an earlier one.
pub(super) fn apply(layout: &Layout, path: &str, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    if rules.is_empty() {
        return Ok(());
    }
    if let Some(root) = layout.home("devices") {
        let folder = root.open(path)?;
        return rules.iter().try_for_each(|rule| {
            folder.write(if rule.allow() { "devices.allow" } else { "devices.deny" }, &rule.to_string())
        });
    }
    let Some(root) = layout.unified() else {
        let (file, value) = ("devices.deny".to_owned(), rules[0].to_string());
        return Err(CgroupError::NoController { controller: "devices", file, value });
    };
    // Attaching needs the folder itself, not only its path.
    let folder = root.open(path)?.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    attach_device_rules(&folder, rules)
}

/// Holds the processes of a cgroup v2 folder to the rules, by a program of the kernel's verifier's liking.
///
/// # Errors
/// `CgroupError`: rules that mean nothing, or a kernel that does not take programs.
pub fn attach_device_rules(folder: &impl AsFd, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let Some(program) = program(rules)? else { return Ok(()) };
    bpf::attach_device_program(folder, &program).map_err(|source| {
        let path = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
        let path = std::fs::read_link(&path).unwrap_or_else(|_| path.into());
        CgroupError::Io { op: "attach a device program to", path, source }
    })
}

/// eBPF instructions that are used here (linux/bpf.h, linux/bpf_common.h).
const LDX_W: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const MOV_IMM: u8 = 0xb7;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JEQ_IMM: u8 = 0x15;
const JNE_IMM: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ANY_ACCESS: u32 = MKNOD | READ | WRITE;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// A BPF_PROG_TYPE_CGROUP_DEVICE program that answers 1 to allow; `None` when everything is allowed anyway. The last
/// rule that fits decides, so that they are tried from the last to the first; what fits none is denied.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<u64>>, CgroupError> {
    // struct bpf_cgroup_dev_ctx { access_type: access << 16 | type, major, minor }
    let mut code = vec![
        instruction(LDX_W, 2, 1, 0, 0),
        instruction(AND32_IMM, 2, 0, 0, 0xffff),
        instruction(LDX_W, 3, 1, 0, 0),
        instruction(RSH32_IMM, 3, 0, 0, 16),
        instruction(LDX_W, 4, 1, 4, 0),
        instruction(LDX_W, 5, 1, 8, 0),
    ];
    let mut decided = false;
    for (index, rule) in rules.iter().enumerate().rev() {
        let tests = tests(rule)?;
        if tests.is_empty() && rule.allow() && index + 1 == rules.len() {
            return Ok(None);
        }
        decided = tests.is_empty();
        // A test that fails skips the rest of the rule's tests and its two instructions of answer.
        let length: usize = tests.iter().map(Test::length).sum();
        let mut left = length;
        for test in &tests {
            left -= test.length();
            code.extend(test.instructions(left as i16 + 2));
        }
        code.push(instruction(MOV_IMM, 0, 0, 0, i32::from(rule.allow())));
        code.push(instruction(EXIT, 0, 0, 0, 0));
        if decided {
            break;
        }
    }
    if !decided {
        code.push(instruction(MOV_IMM, 0, 0, 0, 0));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    Ok(Some(code))
}

#[derive(Debug, Clone, Copy)]
enum Test {
    /// The register holds the number.
    Is(u8, i32),
    /// All that is asked for is among these.
    Within(u32),
    /// Something that is asked for is among these.
    Touches(u32),
}

impl Test {
    fn length(&self) -> usize {
        match self {
            Self::Is(..) => 1,
            Self::Within(_) | Self::Touches(_) => 3,
        }
    }

    fn instructions(&self, skip: i16) -> Vec<u64> {
        let masked = |mask: u32| [instruction(MOV32_REG, 1, 3, 0, 0), instruction(AND32_IMM, 1, 0, 0, mask as i32)];
        match *self {
            Self::Is(register, number) => vec![instruction(JNE_IMM, register, 0, skip, number)],
            Self::Within(mask) => [masked(mask).as_slice(), &[instruction(JNE_REG, 1, 3, skip, 0)]].concat(),
            Self::Touches(mask) => [masked(mask).as_slice(), &[instruction(JEQ_IMM, 1, 0, skip, 0)]].concat(),
        }
    }
}

/// What has to hold for a rule to decide; nothing: it always does.
fn tests(rule: &LinuxDeviceCgroup) -> Result<Vec<Test>, CgroupError> {
    let mut tests = Vec::new();
    match rule.typ().unwrap_or_default() {
        // `a` stands for all devices and all access, whatever else the rule says (cgroup-v1, devices).
        LinuxDeviceType::A => return Ok(tests),
        LinuxDeviceType::B => tests.push(Test::Is(2, BLOCK)),
        LinuxDeviceType::C | LinuxDeviceType::U => tests.push(Test::Is(2, CHARACTER)),
        LinuxDeviceType::P => return Err(CgroupError::Devices("a FIFO is not controlled")),
    }
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(CgroupError::Devices("access is other than r, w and m")),
        };
    }
    match (access, rule.allow()) {
        (0, _) => return Err(CgroupError::Devices("a rule has no access")),
        (ANY_ACCESS, _) => {}
        (access, true) => tests.push(Test::Within(access)),
        (access, false) => tests.push(Test::Touches(access)),
    }
    for (register, number) in [(4, rule.major()), (5, rule.minor())] {
        match number {
            // -1 is the wildcard of some callers.
            None | Some(-1) => {}
            Some(number) => match u32::try_from(number) {
                // The comparison sign-extends its 32 bits; no device number has the top one.
                Ok(number) if number <= i32::MAX as u32 => tests.push(Test::Is(register, number as i32)),
                _ => return Err(CgroupError::Devices("a device number is out of range")),
            },
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the few instructions that `program` uses.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0usize;
        loop {
            let bytes = program[at].to_ne_bytes();
            let (destination, source) = ((bytes[1] & 15) as usize, (bytes[1] >> 4) as usize);
            let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let immediate = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            at += 1;
            let jump = match bytes[0] {
                LDX_W => {
                    registers[destination] = u64::from(context[offset as usize / 4]);
                    false
                }
                MOV32_REG => {
                    registers[destination] = registers[source] & 0xffff_ffff;
                    false
                }
                MOV_IMM => {
                    registers[destination] = i64::from(immediate) as u64;
                    false
                }
                AND32_IMM => {
                    registers[destination] &= u64::from(immediate as u32);
                    false
                }
                RSH32_IMM => {
                    registers[destination] >>= immediate;
                    false
                }
                JEQ_IMM => registers[destination] == i64::from(immediate) as u64,
                JNE_IMM => registers[destination] != i64::from(immediate) as u64,
                JNE_REG => registers[destination] != registers[source],
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            };
            if jump {
                at += offset as usize;
            }
        }
    }

    fn rule(
        allow: bool,
        typ: LinuxDeviceType,
        major: Option<i64>,
        minor: Option<i64>,
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(Some(typ)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
        rule
    }

    fn naive(rules: &[LinuxDeviceCgroup], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let bits = |text: &str| {
            text.chars().fold(0, |bits, c| {
                bits | match c {
                    'r' => READ,
                    'w' => WRITE,
                    _ => MKNOD,
                }
            })
        };
        let fits = |rule: &&LinuxDeviceCgroup| {
            let typ = rule.typ().unwrap();
            if typ == LinuxDeviceType::A {
                return true;
            }
            let wanted = if typ == LinuxDeviceType::B { BLOCK } else { CHARACTER };
            let mask = bits(rule.access().as_deref().unwrap());
            kind == wanted as u32
                && rule.major().is_none_or(|number| number == i64::from(major))
                && rule.minor().is_none_or(|number| number == i64::from(minor))
                && if rule.allow() { access & !mask == 0 } else { access & mask != 0 }
        };
        rules.iter().rev().find(fits).is_some_and(|rule| rule.allow())
    }

    #[test]
    fn everything_allowed_needs_no_program() {
        let all = rule(true, LinuxDeviceType::A, None, None, "rwm");
        assert_eq!(program(std::slice::from_ref(&all)).unwrap(), None);
        let denied = rule(false, LinuxDeviceType::A, None, None, "rwm");
        let program = program(&[all, denied]).unwrap().unwrap();
        assert!(!run(&program, 2, READ, 1, 3));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for bad in [
            rule(true, LinuxDeviceType::C, None, None, ""),
            rule(true, LinuxDeviceType::C, None, None, "x"),
            rule(true, LinuxDeviceType::C, Some(-7), None, "r"),
            rule(true, LinuxDeviceType::P, None, None, "r"),
        ] {
            assert!(program(&[bad]).is_err());
        }
    }

    prop_compose! {
        fn any_rule()(
            allow: bool,
            typ in prop::sample::select(vec![LinuxDeviceType::A, LinuxDeviceType::B, LinuxDeviceType::C, LinuxDeviceType::C]),
            major in prop::option::of(0i64..4),
            minor in prop::option::of(0i64..4),
            access in prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]),
        ) -> LinuxDeviceCgroup {
            rule(allow, typ, major, minor, access)
        }
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_say(rules in prop::collection::vec(any_rule(), 1..12)) {
            let program = program(&rules).unwrap();
            for kind in [1, 2] {
                for access in 1..8 {
                    for (major, minor) in [(0, 0), (1, 3), (3, 1), (2, 2), (9, 9)] {
                        let decided = program.as_ref().is_none_or(|program| run(program, kind, access, major, minor));
                        prop_assert_eq!(decided, naive(&rules, kind, access, major, minor));
                    }
                }
            }
        }
    }
}
