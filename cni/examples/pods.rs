//! How long adding and removing a pod takes: bridge, host-local and portmap, dual stack.
//!
//! `unshare --net --mount target/release/examples/pods [call|PATH_OF_PLUGINS] [PODS] [AT_A_TIME]`: by call in this process, or as the
//! programs of a folder. Prints medians in milliseconds of the first and the last fifty pods; of several at a time, how long all took.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use cni::call::Runner;
use cni::client::{Attachment, Client, Exec, Records};
use cni::conf::{Capabilities, NetworkList, PortMapping};
use cni::plugins::InProcess;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut words = std::env::args().skip(1);
    let by = words.next().unwrap_or_else(|| "call".into());
    let pods: usize = words.next().map_or(Ok(500), |word| word.parse())?;
    let at_a_time: usize = words.next().map_or(Ok(1), |word| word.parse())?;
    let folder = std::env::temp_dir().join(format!("cni-pods-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let path: Vec<PathBuf> = vec![if by == "call" { "/nowhere".into() } else { by.clone().into() }];
    let runner: Box<dyn Runner> = match by.as_str() {
        "call" => Box::new(InProcess::new(Exec::new(Vec::new()))),
        _ => Box::new(Exec::new(path.clone())),
    };
    let client = Client::new(&*runner, Records::new(&folder), path);
    let list = list(&folder)?;
    let outcome = if at_a_time > 1 { together(&client, &list, pods, at_a_time) } else { measure(&client, &list, pods) };
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn list(folder: &std::path::Path) -> Result<NetworkList, Error> {
    let leases = folder.join("leases");
    let text = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni-pods", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
            "type": "host-local", "dataDir": leases,
            "ranges": [[{"subnet": "10.9.0.0/16"}], [{"subnet": "fd00:9::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    Ok(NetworkList::parse(text.to_string().as_bytes())?)
}

fn measure<R: Runner>(client: &Client<R>, list: &NetworkList, pods: usize) -> Result<(), Error> {
    let (mut namespaces, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..pods {
        namespaces.push(Namespace::new()?);
        let attachment = attachment(number, &namespaces[number])?;
        let started = Instant::now();
        client.add(list, &attachment, started + Duration::from_secs(60))?;
        added.push(started.elapsed());
    }
    for (number, namespace) in namespaces.iter().enumerate().rev() {
        let attachment = attachment(number, namespace)?;
        let started = Instant::now();
        client.del(&list.name, None, &attachment, started + Duration::from_secs(60))?;
        removed.push(started.elapsed());
    }
    removed.reverse();
    for (what, times) in [("ADD", added), ("DEL", removed)] {
        let few = times.len().min(50);
        println!("{what}: {} first, {} last of {pods}", median(&times[..few]), median(&times[times.len() - few..]));
    }
    Ok(())
}

fn together<R: Runner>(client: &Client<R>, list: &NetworkList, pods: usize, at_a_time: usize) -> Result<(), Error> {
    let namespaces = (0..pods).map(|_| Namespace::new()).collect::<Result<Vec<_>, _>>()?;
    let attachments = namespaces.iter().enumerate().map(|(number, namespace)| attachment(number, namespace));
    let attachments = attachments.collect::<Result<Vec<_>, _>>()?;
    for what in ["ADD", "DEL"] {
        let (next, failed, started) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
        let work = || {
            while let Some(attachment) = attachments.get(next.fetch_add(1, Ordering::Relaxed)) {
                let deadline = Instant::now() + Duration::from_secs(60);
                let outcome = match what {
                    "ADD" => client.add(list, attachment, deadline).map(drop),
                    _ => client.del(&list.name, None, attachment, deadline),
                };
                failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(outcome.err());
            }
        };
        std::thread::scope(|scope| (0..at_a_time).for_each(|_| drop(scope.spawn(work))));
        if let Some(error) = failed.into_inner().unwrap_or_default().into_iter().next() {
            return Err(error.into());
        }
        println!("{what}: {pods} pods, {at_a_time} at a time: {:.2} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

fn attachment(number: usize, namespace: &Namespace) -> Result<Attachment, Error> {
    let port = PortMapping {
        host_port: u16::try_from(10_000 + number)?,
        container_port: 80,
        protocol: "tcp".into(),
        host_ip: String::new(),
    };
    Ok(Attachment {
        container: format!("pod-{number}").parse()?,
        netns: Some(format!("/proc/{}/task/{}/ns/net", std::process::id(), namespace.thread)),
        interface: "eth0".parse()?,
        args: "IgnoreUnknown=1".parse()?,
        capabilities: Capabilities { port_mappings: vec![port], ..Capabilities::default() },
    })
}

fn median(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).map_or_else(String::new, |time| format!("{:.2} ms", time.as_secs_f64() * 1e3))
}

/// A network namespace, held by a thread.
struct Namespace {
    thread: i32,
    _held: mpsc::Sender<()>,
}

impl Namespace {
    fn new() -> Result<Self, Error> {
        let (ready, is_ready) = mpsc::channel();
        let (held, released) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            let _ = ready.send(made.map(|()| nix::unistd::gettid().as_raw()));
            let _ = released.recv();
        });
        Ok(Self { thread: is_ready.recv()??, _held: held })
    }
}
