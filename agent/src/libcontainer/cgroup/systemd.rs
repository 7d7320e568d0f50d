//! The systemd driver: a container's cgroup is a transient scope in the slice of its pod, made and ended over D-Bus.
//!
//! A scope needs a process to begin with. The spawner lends one that only waits; the container's init is cloned straight
//! into the scope's cgroup (CLONE_INTO_CGROUP), and the lent process ends. The scope is delegated: below it systemd
//! touches nothing, and what `Cgroup::create` writes into it stays. systemd is told the limits all the same, since it
//! writes its own idea of them whenever it reloads.

/// Limits in systemd's words.
mod properties;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use oci_spec::runtime::LinuxResources;
use tokio::sync::Mutex;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, Variant};

use self::properties::{properties, taken_away};
use super::CgroupError;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// systemd answers in milliseconds; when it does not, it is reloading or stuck.
const JOB_WAIT: Duration = Duration::from_secs(30);

type Properties = Vec<(&'static str, Variant<'static>)>;
/// The auxiliary units of StartTransientUnit, of which there are none.
type Units = Vec<(&'static str, Properties)>;

/// A connection to systemd; clones share it.
#[derive(Debug, Clone)]
pub struct Systemd {
    address: Option<String>,
    /// Replaced once it is closed: the bus may be restarted under a node that runs on.
    bus: Arc<Mutex<Connection>>,
}

/// What is being done to a unit, for errors.
#[derive(Clone, Copy)]
struct Doing<'a> {
    op: &'static str,
    unit: &'a str,
}

impl Doing<'_> {
    fn failed(self, source: zbus::Error) -> CgroupError {
        CgroupError::Systemd { op: self.op, unit: self.unit.to_owned(), source: Box::new(source) }
    }
}

impl Systemd {
    /// Connects to the system bus (where DBUS_SYSTEM_BUS_ADDRESS says, if it says), or to the bus at an address.
    ///
    /// # Errors
    /// `CgroupError::Systemd`: there is no bus, or no systemd on it that sends its signals.
    pub async fn connect(address: Option<&str>) -> Result<Self, CgroupError> {
        let bus = open(address).await?;
        Ok(Self { address: address.map(str::to_owned), bus: Arc::new(Mutex::new(bus)) })
    }

    /// Makes the scope at a path that `Layout::container_path` gave, with a process in it, and waits until it is there.
    ///
    /// # Errors
    /// `CgroupError`: systemd refused, or its job failed. Nothing of the scope stays.
    pub async fn start_scope(
        &self,
        path: &str,
        process: u32,
        limits: Option<&LinuxResources>,
        unified: bool,
    ) -> Result<(), CgroupError> {
        let (slice, unit) = split(path)?;
        let doing = Doing { op: "start", unit };
        let mut all = scope("Berth container", slice, process);
        all.extend(limits.map(|limits| properties(limits, unified)).unwrap_or_default());
        let body = (unit, "fail", all, Units::new());
        match self.run_job(doing, "StartTransientUnit", &body).await {
            // What a failed scope of that name left behind: the name is random, so that it can only be this one's.
            Err(CgroupError::Systemd { source, .. }) if is(&source, "UnitExists") => {
                self.call(doing, "ResetFailedUnit", &(unit,)).await?;
                self.run_job(doing, "StartTransientUnit", &body).await
            }
            result => result,
        }
    }

    /// Moves a process into the scope at a path, and makes the scope when it is not there. It stays while anybody is
    /// in it.
    ///
    /// # Errors
    /// `CgroupError`: systemd refused, or its job failed.
    pub async fn join_scope(&self, path: &str, description: &str, process: u32) -> Result<(), CgroupError> {
        let (slice, unit) = split(path)?;
        let doing = Doing { op: "start", unit };
        let body = (unit, "fail", scope(description, slice, process), Units::new());
        match self.run_job(doing, "StartTransientUnit", &body).await {
            Err(CgroupError::Systemd { source, .. }) if is(&source, "UnitExists") => {}
            result => return result,
        }
        let attach = Doing { op: "add a process to", unit };
        match self.call(attach, "AttachProcessesToUnit", &(unit, "", vec![process])).await {
            // The last that was in it has just ended.
            Err(_) => self.run_job(doing, "StartTransientUnit", &body).await,
            Ok(_) => Ok(()),
        }
    }

    /// Tells systemd of changed limits; `Change` writes them. What was set `before` and is not any more has no limit.
    ///
    /// # Errors
    /// `CgroupError::Systemd`, e.g. when the scope is gone.
    pub async fn set_limits(
        &self,
        path: &str,
        before: &LinuxResources,
        limits: &LinuxResources,
        unified: bool,
    ) -> Result<(), CgroupError> {
        let (_, unit) = split(path)?;
        let mut told = properties(limits, unified);
        told.extend(taken_away(&properties(before, unified), &told));
        let body = (unit, true, told);
        self.call(Doing { op: "set properties of", unit }, "SetUnitProperties", &body).await.map(drop)
    }

    /// Ends the scope and waits until it is gone. One that is gone has ended.
    ///
    /// # Errors
    /// `CgroupError`: systemd did not manage.
    pub async fn stop_scope(&self, path: &str) -> Result<(), CgroupError> {
        let (_, unit) = split(path)?;
        let doing = Doing { op: "stop", unit };
        match self.run_job(doing, "StopUnit", &(unit, "replace")).await {
            Err(CgroupError::Systemd { source, .. }) if is(&source, "NoSuchUnit") => Ok(()),
            result => result,
        }
    }

    async fn call<B>(&self, doing: Doing<'_>, method: &'static str, body: &B) -> Result<zbus::Message, CgroupError>
    where
        B: serde::Serialize + DynamicType,
    {
        call(&self.bus().await?, doing, method, body).await
    }

    async fn bus(&self) -> Result<Connection, CgroupError> {
        let mut bus = self.bus.lock().await;
        if bus.is_closed() {
            *bus = open(self.address.as_deref()).await?;
        }
        Ok(bus.clone())
    }

    /// Calls what answers with a job, and waits for the job's end.
    async fn run_job<B>(&self, doing: Doing<'_>, method: &'static str, body: &B) -> Result<(), CgroupError>
    where
        B: serde::Serialize + DynamicType,
    {
        let bus = self.bus().await?;
        // The job may be done before its number has come back: listen first.
        let mut ended = job_ends(&bus).await.map_err(|error| doing.failed(error))?;
        let answer = call(&bus, doing, method, body).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(|error| doing.failed(error))?;
        let wait = async {
            while let Some(signal) = ended.next().await {
                let body = signal?.body();
                let (_, path, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
                if path == job {
                    return Ok(result);
                }
            }
            Err(zbus::Error::InputOutput(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()))
        };
        match tokio::time::timeout(JOB_WAIT, wait).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(CgroupError::Job { op: doing.op, unit: doing.unit.to_owned(), result }),
            Ok(Err(error)) => Err(doing.failed(error)),
            Err(_) => Err(timed_out(doing)),
        }
    }
}

async fn open(address: Option<&str>) -> Result<Connection, CgroupError> {
    let doing = Doing { op: "connect to", unit: address.unwrap_or("the system bus") };
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::system(),
    };
    let bus = builder.build().await.map_err(|error| doing.failed(error))?;
    call(&bus, doing, "Subscribe", &()).await?;
    Ok(bus)
}

async fn call<B>(
    bus: &Connection,
    doing: Doing<'_>,
    method: &'static str,
    body: &B,
) -> Result<zbus::Message, CgroupError>
where
    B: serde::Serialize + DynamicType,
{
    let call = bus.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body);
    match tokio::time::timeout(JOB_WAIT, call).await {
        Ok(answer) => answer.map_err(|error| doing.failed(error)),
        Err(_) => Err(timed_out(doing)),
    }
}

async fn job_ends(bus: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(SERVICE)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()?;
    MessageStream::for_match_rule(rule, bus, NonZeroUsize::new(256)).await
}

/// What every scope of ours is.
fn scope(description: &str, slice: &str, process: u32) -> Properties {
    vec![
        ("Description", Variant::from(description.to_owned())),
        ("Slice", Variant::from(slice.to_owned())),
        ("PIDs", Variant::from(vec![process])),
        ("Delegate", Variant::from(true)),
        ("DefaultDependencies", Variant::from(false)),
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("CPUAccounting", Variant::from(true)),
        ("MemoryAccounting", Variant::from(true)),
        ("TasksAccounting", Variant::from(true)),
    ]
}

fn timed_out(doing: Doing<'_>) -> CgroupError {
    CgroupError::Timeout { path: doing.unit.into(), state: "done by systemd" }
}

fn is(error: &zbus::Error, name: &str) -> bool {
    match error {
        zbus::Error::MethodError(full, ..) => full.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name),
        _ => false,
    }
}

/// `a.slice/a-b.slice/x.scope`: the last slice and the scope.
fn split(path: &str) -> Result<(&str, &str), CgroupError> {
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(unit), Some(slice)) if unit.ends_with(".scope") && slice.ends_with(".slice") => Ok((slice, unit)),
        _ => Err(CgroupError::Path { path: path.to_owned(), reason: "is not a scope in a slice" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_split_from_their_slices() {
        assert_eq!(split("a.slice/a-b.slice/c.scope").unwrap(), ("a-b.slice", "c.scope"));
        for bad in ["", "c.scope", "a/c.scope", "a.slice/c"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
