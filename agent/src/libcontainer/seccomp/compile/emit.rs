//! Classic BPF, written back to front: jumps only go forward, so that a jump's target is known when it is written.

/// Offset of `seccomp_data.nr`, `.arch` and `.args` (linux/seccomp.h).
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGT_K: u16 = 0x25;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

/// Conditional jumps reach 255 instructions; what is written between finding a target and using it fits the rest.
const REACH: usize = 250;

/// How an argument is compared with a value, as unsigned 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A return, shared with others when one is near.
    Return(u32),
    /// An instruction, by its distance from the end.
    At(usize),
}

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// The program so far, last instruction first.
pub(super) struct Program {
    reversed: Vec<Instruction>,
    returns: Vec<(u32, usize)>,
}

impl Program {
    pub(super) fn new() -> Self {
        Self { reversed: Vec::with_capacity(1024), returns: Vec::new() }
    }

    /// The bytes of the program, which begins by loading the architecture and goes on at `start`.
    pub(super) fn finish(mut self, start: Target) -> Vec<u8> {
        self.continue_at(start);
        self.push(LD_W_ABS, 0, 0, ARCH);
        let mut bytes = Vec::with_capacity(self.reversed.len() * 8);
        for instruction in self.reversed.iter().rev() {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// Loads the system call's number, then goes on at `then`.
    pub(super) fn load_number(&mut self, then: Target) -> Target {
        self.continue_at(then);
        self.push(LD_W_ABS, 0, 0, NR)
    }

    pub(super) fn branch_equal(&mut self, value: u32, yes: Target, no: Target) -> Target {
        self.branch(JMP_JEQ_K, value, yes, no)
    }

    pub(super) fn branch_at_least(&mut self, value: u32, yes: Target, no: Target) -> Target {
        self.branch(JMP_JGE_K, value, yes, no)
    }

    /// Compares `argument & mask` with `value`; a `narrow` ABI has 32-bit arguments, whose upper half says nothing.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn check(
        &mut self,
        index: u32,
        op: Compare,
        mask: u64,
        value: u64,
        narrow: bool,
        yes: Target,
        no: Target,
    ) -> Target {
        let (op, yes, no) = match op {
            Compare::NotEqual => (Compare::Equal, no, yes),
            Compare::Less => (Compare::GreaterEqual, no, yes),
            Compare::LessEqual => (Compare::Greater, no, yes),
            op => (op, yes, no),
        };
        let (low, high) = (ARGS + 8 * index, ARGS + 8 * index + 4);
        let (low_mask, high_mask) = (mask as u32, (mask >> 32) as u32);
        let (low_value, high_value) = (value as u32, (value >> 32) as u32);
        let code = match op {
            Compare::Greater => JMP_JGT_K,
            Compare::GreaterEqual => JMP_JGE_K,
            _ => JMP_JEQ_K,
        };
        self.branch(code, low_value, yes, no);
        let lower = self.load(low, low_mask);
        if narrow {
            return lower;
        }
        let mut upper = self.branch(JMP_JEQ_K, high_value, lower, no);
        if op != Compare::Equal {
            upper = self.branch(JMP_JGT_K, high_value, yes, upper);
        }
        debug_assert!(matches!(upper, Target::At(_)));
        self.load(high, high_mask)
    }

    fn load(&mut self, offset: u32, mask: u32) -> Target {
        if mask != u32::MAX {
            self.push(ALU_AND_K, 0, 0, mask);
        }
        self.push(LD_W_ABS, 0, 0, offset)
    }

    fn branch(&mut self, code: u16, value: u32, yes: Target, no: Target) -> Target {
        let (yes, no) = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, value)
    }

    /// How many instructions an instruction written now would have to skip.
    fn distance(&self, position: usize) -> usize {
        self.reversed.len() - 1 - position
    }

    /// A position that leads to the target and that a conditional jump written soon can reach.
    fn near(&mut self, target: Target) -> usize {
        match target {
            Target::Return(action) => match self.returns.iter().find(|(known, _)| *known == action) {
                Some(&(_, position)) if self.distance(position) <= REACH => position,
                _ => self.push_return(action),
            },
            Target::At(position) if self.distance(position) <= REACH => position,
            Target::At(position) => {
                let skip = self.distance(position) as u32;
                self.push(JMP_JA, 0, 0, skip);
                self.reversed.len() - 1
            }
        }
    }

    /// Makes the next instruction written fall through to the target.
    fn continue_at(&mut self, target: Target) {
        match target {
            Target::Return(action) => drop(self.push_return(action)),
            Target::At(position) if self.distance(position) == 0 => {}
            Target::At(position) => {
                let skip = self.distance(position) as u32;
                self.push(JMP_JA, 0, 0, skip);
            }
        }
    }

    fn push_return(&mut self, action: u32) -> usize {
        self.push(RET_K, 0, 0, action);
        let position = self.reversed.len() - 1;
        self.returns.retain(|(known, _)| *known != action);
        self.returns.push((action, position));
        position
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        self.reversed.push(Instruction { code, jt, jf, k });
        Target::At(self.reversed.len() - 1)
    }
}
