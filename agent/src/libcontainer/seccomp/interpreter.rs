//! Classic BPF as the kernel runs it on `seccomp_data`, for tests: it checks a program as bpf_check_classic() and
//! seccomp_check_filter() do, and then runs it.

/// What a filter sees (linux/seccomp.h).
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

struct Instruction {
    code: u16,
    jt: usize,
    jf: usize,
    k: u32,
}

pub(super) struct Interpreter(Vec<Instruction>);

impl Interpreter {
    pub(super) fn new(program: &[u8]) -> Self {
        assert!(program.len().is_multiple_of(8) && (1..=4096).contains(&(program.len() / 8)));
        let code: Vec<Instruction> = program
            .chunks(8)
            .map(|bytes| Instruction {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2].into(),
                jf: bytes[3].into(),
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        for (at, one) in code.iter().enumerate() {
            let left = code.len() - at - 1;
            match one.code {
                0x20 => assert!(one.k.is_multiple_of(4) && one.k < 64, "load outside of seccomp_data"),
                0x54 | 0x06 => {}
                0x05 => assert!((one.k as usize) < left, "jump out of the program"),
                0x15 | 0x25 | 0x35 => assert!(one.jt < left && one.jf < left, "jump out of the program"),
                other => panic!("instruction {other:#x} is not for filters"),
            }
        }
        assert_eq!(code.last().map(|last| last.code), Some(0x06), "a program ends with a return");
        Self(code)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The verdict, and how many instructions it took.
    pub(super) fn run(&self, call: &Call) -> (u32, usize) {
        let mut data = [0u32; 16];
        (data[0], data[1]) = (call.nr, call.arch);
        for (index, arg) in call.args.iter().enumerate() {
            (data[4 + 2 * index], data[5 + 2 * index]) = (*arg as u32, (arg >> 32) as u32);
        }
        let (mut at, mut a, mut steps) = (0, 0u32, 0);
        loop {
            let one = &self.0[at];
            at += 1;
            steps += 1;
            let taken = match one.code {
                0x20 => {
                    a = data[one.k as usize / 4];
                    continue;
                }
                0x54 => {
                    a &= one.k;
                    continue;
                }
                0x05 => {
                    at += one.k as usize;
                    continue;
                }
                0x06 => return (one.k, steps),
                0x15 => a == one.k,
                0x25 => a > one.k,
                _ => a >= one.k,
            };
            at += if taken { one.jt } else { one.jf };
        }
    }
}
