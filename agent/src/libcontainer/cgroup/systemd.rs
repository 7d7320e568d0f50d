//! The systemd driver: a container's cgroup is a transient scope in the slice of its pod, made and ended over D-Bus.
//!
//! A scope needs a process to begin with. The monitor lends one that only waits; the container's init is cloned straight
//! into the scope's cgroup (CLONE_INTO_CGROUP), and the lent process ends. The scope is delegated: below it systemd
//! touches nothing, and what `Cgroup::create` writes into it stays. systemd is told the limits all the same, since it
//! writes its own idea of them whenever it reloads.

use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::StreamExt;
use oci_spec::runtime::LinuxResources;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, Variant};

use super::{CgroupError, cpu_weight};

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
    bus: Connection,
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
    /// Connects to the system bus, or to the bus at an address.
    ///
    /// # Errors
    /// `CgroupError::Systemd`: there is no bus, or no systemd on it that sends its signals.
    pub async fn connect(address: Option<&str>) -> Result<Self, CgroupError> {
        let doing = Doing { op: "connect to", unit: address.unwrap_or("the system bus") };
        let builder = match address {
            Some(address) => zbus::connection::Builder::address(address),
            None => zbus::connection::Builder::system(),
        };
        let bus = builder.build().await;
        let systemd = Self { bus: bus.map_err(|error| doing.failed(error))? };
        systemd.call(doing, "Subscribe", &()).await?;
        Ok(systemd)
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
        let mut properties: Properties = vec![
            ("Description", Variant::from("Berth container")),
            ("Slice", Variant::from(slice.to_owned())),
            ("PIDs", Variant::from(vec![process])),
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("CPUAccounting", Variant::from(true)),
            ("MemoryAccounting", Variant::from(true)),
            ("TasksAccounting", Variant::from(true)),
        ];
        properties.extend(limits.map(|limits| self::properties(limits, unified)).unwrap_or_default());
        let body = (unit, "fail", properties, Units::new());
        match self.run_job(doing, "StartTransientUnit", &body).await {
            // What a failed scope of that name left behind: the name is random, so that it can only be this one's.
            Err(CgroupError::Systemd { source, .. }) if is(&source, "UnitExists") => {
                self.call(doing, "ResetFailedUnit", &(unit,)).await?;
                self.run_job(doing, "StartTransientUnit", &body).await
            }
            result => result,
        }
    }

    /// Tells systemd of changed limits; `Cgroup::update` writes them.
    ///
    /// # Errors
    /// `CgroupError::Systemd`, e.g. when the scope is gone.
    pub async fn set_limits(&self, path: &str, limits: &LinuxResources, unified: bool) -> Result<(), CgroupError> {
        let (_, unit) = split(path)?;
        let body = (unit, true, properties(limits, unified));
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
        let call = self.bus.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body);
        match tokio::time::timeout(JOB_WAIT, call).await {
            Ok(answer) => answer.map_err(|error| doing.failed(error)),
            Err(_) => Err(timed_out(doing)),
        }
    }

    /// Calls what answers with a job, and waits for the job's end.
    async fn run_job<B>(&self, doing: Doing<'_>, method: &'static str, body: &B) -> Result<(), CgroupError>
    where
        B: serde::Serialize + DynamicType,
    {
        // The job may be done before its number has come back: listen first.
        let mut ended = self.job_ends().await.map_err(|error| doing.failed(error))?;
        let answer = self.call(doing, method, body).await?;
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

    async fn job_ends(&self) -> zbus::Result<MessageStream> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(SERVICE)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        MessageStream::for_match_rule(rule, &self.bus, NonZeroUsize::new(256)).await
    }
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

/// Limits in systemd's words (org.freedesktop.systemd1(5)).
fn properties(limits: &LinuxResources, unified: bool) -> Properties {
    let mut list: Properties = Vec::new();
    let bytes = |bytes: i64| Variant::from(u64::try_from(bytes).unwrap_or(u64::MAX));
    if let Some(memory) = limits.memory() {
        let name = if unified { "MemoryMax" } else { "MemoryLimit" };
        list.extend(memory.limit().map(|limit| (name, bytes(limit))));
        if let (true, Some(limit), Some(both)) = (unified, memory.limit(), memory.swap()) {
            list.push(("MemorySwapMax", bytes(if both < 0 { both } else { (both - limit).max(0) })));
        }
    }
    if let Some(cpu) = limits.cpu() {
        list.extend(cpu.shares().map(|shares| match unified {
            true => ("CPUWeight", Variant::from(cpu_weight(shares))),
            false => ("CPUShares", Variant::from(shares)),
        }));
        if let Some(quota) = cpu.quota() {
            let period = cpu.period().filter(|&period| period > 0).unwrap_or(100_000);
            list.push(("CPUQuotaPerSecUSec", Variant::from(quota_per_second(quota, period))));
            list.push(("CPUQuotaPeriodUSec", Variant::from(period)));
        }
        if unified {
            list.extend(cpu.cpus().as_deref().and_then(bit_set).map(|set| ("AllowedCPUs", Variant::from(set))));
            list.extend(cpu.mems().as_deref().and_then(bit_set).map(|set| ("AllowedMemoryNodes", Variant::from(set))));
        }
    }
    if let Some(pids) = limits.pids() {
        list.push(("TasksMax", bytes(if pids.limit() > 0 { pids.limit() } else { -1 })));
    }
    list
}

/// systemd keeps quotas in per cent: rounded up, so that it never gives less than was asked for.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const PER_CENT: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 => quota.saturating_mul(1_000_000).div_ceil(period).div_ceil(PER_CENT) * PER_CENT,
        _ => u64::MAX,
    }
}

/// `0-2,8` as bits, the lowest first; `None` for what is no list (the kernel will say so).
fn bit_set(list: &str) -> Option<Vec<u8>> {
    let mut bits: Vec<u8> = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use oci_spec::runtime::{LinuxCpu, LinuxMemory};

    use super::*;

    fn named(properties: &Properties) -> HashMap<&'static str, String> {
        properties.iter().map(|(name, value)| (*name, value.to_string())).collect()
    }

    #[test]
    fn scopes_are_split_from_their_slices() {
        assert_eq!(split("a.slice/a-b.slice/c.scope").unwrap(), ("a-b.slice", "c.scope"));
        for bad in ["", "c.scope", "a/c.scope", "a.slice/c"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quotas_round_up_to_per_cents() {
        assert_eq!(quota_per_second(50_000, 100_000), 500_000);
        assert_eq!(quota_per_second(1_001, 100_000), 20_000);
        assert_eq!(quota_per_second(-1, 100_000), u64::MAX);
    }

    #[test]
    fn lists_become_bits() {
        assert_eq!(bit_set("0-2,8"), Some(vec![0b111, 1]));
        assert_eq!(bit_set("15"), Some(vec![0, 0x80]));
        for bad in ["", "a", "2-1", "1,", "70000"] {
            assert_eq!(bit_set(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_in_systemds_words() {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(100)).set_swap(Some(150));
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(Some(1024)).set_quota(Some(20_000)).set_period(Some(10_000)).set_cpus(Some("1".to_owned()));
        let mut limits = LinuxResources::default();
        limits.set_memory(Some(memory)).set_cpu(Some(cpu));
        let unified = named(&properties(&limits, true));
        let expect = |name: &str, value: &str| assert!(unified[name].ends_with(value), "{name}: {}", unified[name]);
        expect("MemoryMax", "100");
        expect("MemorySwapMax", "50");
        expect("CPUWeight", "100");
        expect("CPUQuotaPerSecUSec", "2000000");
        assert!(unified.contains_key("AllowedCPUs"));
        let legacy = named(&properties(&limits, false));
        assert!(legacy["CPUShares"].ends_with("1024") && legacy["MemoryLimit"].ends_with("100"));
        assert!(!legacy.contains_key("AllowedCPUs"));
    }
}
