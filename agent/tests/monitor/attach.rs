//! Attached clients, and sockets in the pod's network namespace.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use berth::monitor::client::{AttachRequest, IpFamily, Monitor, MonitorError, SessionEnd};
use berth::monitor::protocol::frame::{self, FrameError, PACKET_LIMIT, Packet};
use berth::monitor::protocol::{Answer, Body, Call, FailureKind, HelloAnswer, Request, VERSION};
use berth::sys::unix_socket;
use rustix::net::{SocketAddrAny, connect, getsockname};

use crate::support::{Container, Pod, Sandbox};

/// A client as an agent would have it.
struct Client {
    stdin: Option<File>,
    stdout: PipeReader,
    stderr: PipeReader,
    session: PipeReader,
}

async fn try_attach(monitor: &Monitor, container: &Container, stdin: bool) -> Result<Client, MonitorError> {
    let ((stdout, out), (stderr, err), (session, end)) =
        (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
    let request = AttachRequest {
        container: container.id.clone(),
        stdin,
        stdout: Some(out.into()),
        stderr: Some(err.into()),
        session: end.into(),
    };
    let stdin = monitor.attach(request).await?.map(File::from);
    Ok(Client { stdin, stdout, stderr, session })
}

async fn attach(pod: &Pod<'_>, container: &Container) -> Client {
    try_attach(&pod.monitor, container, true).await.unwrap()
}

/// A pipe to its end.
async fn rest(mut pipe: PipeReader) -> Vec<u8> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    });
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("an end in time").unwrap()
}

fn with_stdin(pod: &Pod<'_>, script: &str, once: bool) -> Container {
    let mut container = pod.container(script);
    (container.plan.stdin, container.plan.stdin_once) = (true, once);
    container
}

async fn start(pod: &Pod<'_>, container: &Container) {
    pod.create(container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
}

#[tokio::test]
async fn input_goes_in_and_output_comes_out_to_the_last_byte() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = with_stdin(&pod, "cat; printf bye; echo wrong >&2; exit 3", true);
    start(&pod, &container).await;
    let mut client = attach(&pod, &container).await;
    let bytes: Vec<u8> = (0..10_000_000u32).map(|i| (i * 7 % 253) as u8).collect();
    let mut stdin = client.stdin.take().unwrap();
    let (sent, mut expected) = (bytes.clone(), bytes);
    let writer = tokio::task::spawn_blocking(move || stdin.write_all(&sent).unwrap());
    expected.extend_from_slice(b"bye");
    assert!(rest(client.stdout).await == expected);
    writer.await.unwrap();
    assert_eq!(rest(client.stderr).await, b"wrong\n");
    assert_eq!(rest(client.session).await, [SessionEnd::ContainerEnded as u8]);
    assert_eq!(pod.exited(&container).await.exit_code, 3);
}

#[tokio::test]
async fn a_client_that_never_reads_delays_nobody_and_is_given_up() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let script =
        "line=$(yes 0123456789abcdef | head -n 60); read go; yes \"$(echo $line)\" | head -n 80000; sleep 1000";
    let container = with_stdin(&pod, script, false);
    let line = [["0123456789abcdef"; 60].join(" "), "\n".to_owned()].concat();
    start(&pod, &container).await;
    let stuck = attach(&pod, &container).await;
    let mut reading = attach(&pod, &container).await;
    reading.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    // 82 MB, and the container goes on: neither its log nor the other client waits for the one that does not read.
    let mut pipe = reading.stdout.try_clone().unwrap();
    let all = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 1020 * 80_000];
        pipe.read_exact(&mut bytes).unwrap();
        bytes
    });
    assert!(all.await.unwrap().chunks(1020).all(|got| got == line.as_bytes()));
    assert_eq!(rest(stuck.session).await, [SessionEnd::FellBehind as u8]);
    pod.until(|| container.raw_log("0.log").lines().count() == 80_000).await;
    assert!(rest(stuck.stdout).await.len() >= 64 << 10, "what its pipe held it may still read");
    pod.monitor.stop(&container.id, 15, Duration::ZERO).await.unwrap();
    assert_eq!(rest(reading.session).await, [SessionEnd::ContainerEnded as u8]);
    pod.exited(&container).await;
}

#[tokio::test]
async fn a_client_that_reads_late_gets_everything_after_the_containers_end() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = with_stdin(&pod, "read go; yes 0123456789abcde | head -n 500000", false);
    start(&pod, &container).await;
    let mut late = attach(&pod, &container).await;
    late.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    pod.exited(&container).await;
    assert_eq!(rest(late.stdout).await.len(), 16 * 500_000);
    assert_eq!(rest(late.session).await, [SessionEnd::ContainerEnded as u8]);
}

#[tokio::test]
async fn standard_input_ends_with_the_first_client_only_when_it_is_to() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let script = "while read line; do echo \"got $line\"; done; echo end";
    let kept = with_stdin(&pod, script, false);
    start(&pod, &kept).await;
    for word in ["one", "two"] {
        let mut client = attach(&pod, &kept).await;
        writeln!(client.stdin.take().unwrap(), "{word}").unwrap();
        pod.until_logged(&kept, &format!("got {word}")).await;
    }
    assert!(!kept.raw_log("0.log").contains("end"));
    let once = with_stdin(&pod, script, true);
    start(&pod, &once).await;
    let mut first = attach(&pod, &once).await;
    let second = attach(&pod, &once).await;
    assert!(second.stdin.is_none(), "it is the first client's");
    writeln!(first.stdin.take().unwrap(), "three").unwrap();
    assert_eq!(rest(second.stdout).await, b"got three\nend\n");
    assert_eq!(pod.exited(&once).await.exit_code, 0);
    let none = pod.run("sleep 1000").await;
    assert!(attach(&pod, &none).await.stdin.is_none());
}

#[tokio::test]
async fn a_terminal_is_shared_by_its_clients() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = with_stdin(&pod, "read line; echo \"got $line\"; exit 5", false);
    container.plan.tty = true;
    start(&pod, &container).await;
    let mut clients = [attach(&pod, &container).await, attach(&pod, &container).await];
    // The descriptor is the monitor's too, so it does not block.
    clients[0].stdin.as_mut().unwrap().write_all(b"typed\n").unwrap();
    assert_eq!(pod.exited(&container).await.exit_code, 5);
    for client in clients {
        assert_eq!(rest(client.stdout).await, b"typed\r\ngot typed\r\n");
        assert_eq!(rest(client.stderr).await, b"");
        assert_eq!(rest(client.session).await, [SessionEnd::ContainerEnded as u8]);
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_client_that_is_gone() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let container = pod.run("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done").await;
    pod.until_logged(&container, "stdout F 3").await;
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", pod.monitor.pid())).unwrap().count();
    let before = fds();
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(attach(&pod, &container).await);
    }
    let refused = try_attach(&pod.monitor, &container, true).await.err().unwrap();
    assert!(refused.to_string().contains("16 clients"), "{refused}");
    assert!(fds() > before + 40);
    drop(clients);
    pod.until(|| fds() == before).await;
    // One that reads no more, but is there.
    let Client { stdout, session, .. } = attach(&pod, &container).await;
    drop(stdout);
    pod.until(|| fds() == before + 1).await;
    drop(session);
    pod.until(|| fds() == before).await;
}

#[tokio::test]
async fn only_a_running_container_is_attached_to() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.container("exit 0");
    let refused = try_attach(&pod.monitor, &container, true).await.err();
    assert!(matches!(refused, Some(MonitorError::NotFound(_))), "{refused:?}");
    pod.create(&container).await.unwrap();
    let refused = try_attach(&pod.monitor, &container, true).await.err();
    assert!(matches!(refused, Some(MonitorError::WrongState(_))), "{refused:?}");
    pod.monitor.start(&container.id).await.unwrap();
    pod.exited(&container).await;
    let refused = try_attach(&pod.monitor, &container, true).await.err();
    assert!(matches!(refused, Some(MonitorError::WrongState(_))), "{refused:?}");
}

#[tokio::test]
async fn an_attached_client_outlives_its_connection_but_not_its_monitor() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = with_stdin(&pod, "cat", true);
    start(&pod, &container).await;
    let mut client = attach(&pod, &container).await;
    let (monitor, namespaces, events) = Monitor::connect(&sandbox.socket(&pod.id)).await.unwrap();
    pod = sandbox.adopt(monitor, namespaces, events);
    writeln!(client.stdin.as_mut().unwrap(), "hello").unwrap();
    let mut said = [0; 6];
    client.stdout.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello\n");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pod.monitor.pid()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(rest(client.session).await, b"", "closed without a word");
}

/// Fields and messages are added to the protocol without a new version: an older monitor is known by what it does not say,
/// and refuses what it does not know without harm.
#[tokio::test]
async fn an_older_monitor_is_known_by_its_hello() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    assert!(pod.monitor.has_streams());
    let path = sandbox.dir.path().join("old.sock");
    let listener = unix_socket::listen(&path).unwrap();
    let old = std::thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        let answer =
            |id, body| Packet::new(&Answer { id, body: Some(body) }, Vec::new()).unwrap().send(&socket).unwrap();
        loop {
            match frame::receive::<Request>(&socket, &mut vec![0; PACKET_LIMIT]) {
                Ok((Request { id, call: Some(Call::Hello(_)) }, _)) => {
                    answer(id, Body::Hello(HelloAnswer { version: VERSION, ..HelloAnswer::default() }));
                }
                Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            }
        }
    });
    let (monitor, ..) = Monitor::connect(&path).await.unwrap();
    assert!(!monitor.has_streams());
    drop(monitor);
    tokio::task::spawn_blocking(|| old.join().unwrap()).await.unwrap();
    // What a call that it does not know looks like to a monitor.
    let socket = unix_socket::connect(&sandbox.socket(&pod.id)).unwrap();
    Packet::new(&Request { id: 7, call: None }, Vec::new()).unwrap().send(&socket).unwrap();
    let answer = loop {
        match frame::receive::<Answer>(&socket, &mut vec![0; PACKET_LIMIT]) {
            Ok((answer, _)) => break answer,
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let Some(Body::Failure(failure)) = answer.body else { panic!("{answer:?}") };
    assert_eq!((answer.id, failure.kind()), (7, FailureKind::Invalid));
}

#[tokio::test]
async fn a_socket_of_the_pod_stays_in_its_network() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let host = sandbox.pod_with(|pod| pod.private_net = false).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address: SocketAddrAny = listener.local_addr().unwrap().into();
    let socket: OwnedFd = host.monitor.open_socket(IpFamily::V4).await.unwrap();
    let begun = connect(&socket, &address);
    assert!(matches!(begun, Ok(()) | Err(rustix::io::Errno::INPROGRESS)), "{begun:?}");
    assert!(listener.accept().is_ok());
    // In the pod nobody listens there; its loopback is not even up.
    let socket = pod.monitor.open_socket(IpFamily::V4).await.unwrap();
    let begun = connect(&socket, &address);
    assert!(begun.is_err_and(|errno| errno != rustix::io::Errno::INPROGRESS), "{begun:?}");
    let socket = TcpStream::from(host.monitor.open_socket(IpFamily::V6).await.unwrap());
    assert!(getsockname(&socket).unwrap().address_family() == rustix::net::AddressFamily::INET6);
}
