//! System call numbers by name, for the machines that a container's programs may be built for.

use std::collections::HashMap;

use oci_spec::runtime::Arch;
use syscalls::{aarch64, arm, x86, x86_64};

/// Numbers above this bit are the x32 ABI's (arch/x86/include/uapi/asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// What the node runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// With i386 and x32 programs.
    X86_64,
    /// With 32-bit arm programs.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    pub const fn native() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Self::Aarch64;
    }

    /// Its name in profiles.
    pub fn arch(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::Aarch64 => Arch::ScmpArchAarch64,
        }
    }

    /// Conditions in profiles use Go's names.
    pub(super) fn is_named(self, name: &str) -> bool {
        match self {
            Self::X86_64 => name == "amd64",
            Self::Aarch64 => name == "arm64",
        }
    }
}

/// A set of system call numbers that a filter has to tell apart by `seccomp_data.arch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    /// Shares AUDIT_ARCH_X86_64; told apart by `X32_BIT`.
    X32,
    I386,
    Aarch64,
    Arm,
}

impl Abi {
    /// From a profile's architecture; `None` for those that cannot run on the machine.
    pub(super) fn of(arch: Arch, machine: Machine) -> Option<Self> {
        match (arch, machine) {
            (Arch::ScmpArchNative | Arch::ScmpArchX86_64, Machine::X86_64) => Some(Self::X86_64),
            (Arch::ScmpArchX86, Machine::X86_64) => Some(Self::I386),
            (Arch::ScmpArchX32, Machine::X86_64) => Some(Self::X32),
            (Arch::ScmpArchNative | Arch::ScmpArchAarch64, Machine::Aarch64) => Some(Self::Aarch64),
            (Arch::ScmpArchArm, Machine::Aarch64) => Some(Self::Arm),
            _ => None,
        }
    }

    /// AUDIT_ARCH_* (linux/audit.h).
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Names to numbers. Built per compilation: a filter is compiled once per profile, the tables are not worth keeping.
    pub(super) fn numbers(self) -> HashMap<&'static str, u32> {
        let mut numbers = HashMap::with_capacity(512);
        match self {
            Self::X86_64 | Self::X32 => {
                (0..=x86_64::Sysno::last().id()).for_each(|id| {
                    if let Some(call) = x86_64::Sysno::new(id as usize) {
                        numbers.insert(call.name(), id as u32);
                    }
                });
            }
            Self::I386 => (0..=x86::Sysno::last().id()).for_each(|id| {
                if let Some(call) = x86::Sysno::new(id as usize) {
                    numbers.insert(call.name(), id as u32);
                }
            }),
            Self::Aarch64 => (0..=aarch64::Sysno::last().id()).for_each(|id| {
                if let Some(call) = aarch64::Sysno::new(id as usize) {
                    numbers.insert(call.name(), id as u32);
                }
            }),
            Self::Arm => {
                (0..=arm::Sysno::last().id()).for_each(|id| {
                    if let Some(call) = arm::Sysno::new(id as usize) {
                        numbers.insert(call.name(), id as u32);
                    }
                });
                numbers.extend(ARM_PRIVATE);
            }
        }
        if self == Self::X32 {
            for (index, name) in X32_OWN.iter().enumerate() {
                numbers.insert(name, 512 + index as u32);
            }
            numbers.values_mut().for_each(|number| *number |= X32_BIT);
        }
        numbers
    }
}

/// The arm kernel's own calls (arch/arm/include/uapi/asm/unistd.h), which the crate's table leaves out.
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0x0f_0001),
    ("cacheflush", 0x0f_0002),
    ("usr26", 0x0f_0003),
    ("usr32", 0x0f_0004),
    ("set_tls", 0x0f_0005),
    ("get_tls", 0x0f_0006),
];

/// Calls whose x32 form has a number of its own, from 512 on (arch/x86/entry/syscalls/syscall_64.tbl).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let cases = [
            (Abi::X86_64, "read", 0),
            (Abi::X86_64, "execve", 59),
            (Abi::X86_64, "clone3", 435),
            (Abi::X32, "read", X32_BIT),
            (Abi::X32, "execve", X32_BIT | 520),
            (Abi::X32, "pwritev2", X32_BIT | 547),
            (Abi::I386, "socketcall", 102),
            (Abi::I386, "clone3", 435),
            (Abi::I386, "clock_gettime64", 403),
            (Abi::Aarch64, "openat", 56),
            (Abi::Arm, "set_tls", 0x0f_0005),
            (Abi::Arm, "openat", 322),
        ];
        for (abi, name, number) in cases {
            assert_eq!(abi.numbers().get(name), Some(&number), "{abi:?} {name}");
        }
    }
}
