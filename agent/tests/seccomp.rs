//! Compiled profiles, loaded into a thread of the test (a filter is a thread's own) and tried. Needs no root, but as
//! root it shows that the filter refuses and not the kernel's own checks.

use std::io;
use std::process::Command;
use std::time::Instant;

use berth::libcontainer::seccomp::{Machine, ProfileContext, compile, default_profile, load_profile};
use berth::sys::confine;
use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketType, socket};

/// CAP_KILL, CAP_SETUID … without CAP_SYS_CHROOT and CAP_SYS_ADMIN.
const CAPABILITIES: u64 = 0xa800_25fb;

fn context() -> ProfileContext {
    ProfileContext { capabilities: CAPABILITIES, kernel: (6, 1), machine: Machine::native() }
}

/// Runs under the filter, on a thread that ends with it.
fn under<T: Send + 'static>(program: Vec<u8>, flags: u32, test: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        confine::no_new_privileges().expect("no_new_privs");
        confine::load_seccomp(&program, flags).expect("the kernel takes the filter");
        test()
    })
    .join()
    .expect("the thread")
}

#[test]
fn the_default_profile_holds() {
    let filter = compile(&default_profile(&context())).unwrap();
    under(filter.program, filter.flags, || {
        let denied = |error: Option<i32>| assert_eq!(error, Some(libc::EPERM));
        denied(nix::sched::unshare(CloneFlags::CLONE_NEWUTS).err().map(|errno| errno as i32));
        denied(nix::unistd::chroot("/").err().map(|errno| errno as i32));
        denied(nix::unistd::sethostname("never").err().map(|errno| errno as i32));
        let vsock = socket(AddressFamily::from_raw(40), SocketType::STREAM, None);
        denied(vsock.err().map(|errno| io::Error::from(errno).raw_os_error().unwrap()));
        socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("other sockets are made");
        // Programs start, by whatever call their C library has; their children inherit the filter.
        let script = "echo started; unshare -u true 2>/dev/null && echo unshared";
        let output = Command::new("/bin/sh").args(["-c", script]).output().expect("a program starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n");
    });
}

#[test]
fn a_localhost_profile_holds() {
    let json = br#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["fchmodat", "chmod", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
            {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
            {"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72, "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 3, "op": "SCMP_CMP_GT"}]}
        ]
    }"#;
    let filter = compile(&load_profile(json, &context()).unwrap()).unwrap();
    under(filter.program, filter.flags, || {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let error = std::fs::set_permissions("/no/such/file", mode).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(71));
        let nice = |value| rustix::process::setpriority_process(None, value).map_err(|errno| errno.raw_os_error());
        assert_eq!(nice(3), Ok(()));
        assert_eq!(nice(4), Err(72));
    });
}

/// What a filter costs; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    let profile = default_profile(&context());
    let mut build = Vec::new();
    let mut load = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        let filter = compile(&profile).unwrap();
        build.push(start.elapsed().as_micros());
        load.push(
            std::thread::spawn(move || {
                confine::no_new_privileges().unwrap();
                let start = Instant::now();
                confine::load_seccomp(&filter.program, filter.flags).unwrap();
                start.elapsed().as_micros()
            })
            .join()
            .unwrap(),
        );
    }
    build.sort_unstable();
    load.sort_unstable();
    let length = compile(&profile).unwrap().program.len() / 8;
    println!(
        "{length} instructions; compile: min {} median {} us; load: min {} median {} us",
        build[0], build[50], load[0], load[50]
    );
}
