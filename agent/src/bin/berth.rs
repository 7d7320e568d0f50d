//! The agent and its command line.

fn main() -> std::process::ExitCode {
    berth::cli::main()
}
