//! The systemd driver against a stand-in for org.freedesktop.systemd1 on a private bus (Debian's dbus-daemon): what it
//! says (needs no root), and a whole agent with it (needs root). Neither needs systemd.
#![allow(clippy::unwrap_used)]

/// A whole agent: pods and containers in scopes.
mod agent;
/// A private bus.
mod bus;
/// Images made in memory.
#[path = "../image/build.rs"]
#[allow(dead_code)]
mod image;
/// A stand-in that makes and ends cgroups as systemd does.
mod service;

use std::sync::{Arc, Mutex};

use berth::libcontainer::cgroup::{CgroupError, Systemd};
use futures_util::StreamExt;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use zbus::message::Type;
use zbus::{Connection, MessageStream, ObjectPath, OwnedObjectPath, OwnedVariant};

use bus::Bus;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

type Calls = Arc<Mutex<Vec<String>>>;

/// Answers as systemd does; how its job ends is part of the unit's name.
async fn stand_in(bus: Connection, calls: Calls) {
    let mut messages = MessageStream::from(&bus);
    bus.request_name("org.freedesktop.systemd1").await.unwrap();
    let mut job = 0u32;
    while let Some(Ok(message)) = messages.next().await {
        let header = message.header();
        let method = header.member().map(|member| member.to_string()).unwrap_or_default();
        if message.message_type() != Type::MethodCall || header.interface().is_none_or(|name| name.as_str() != MANAGER)
        {
            continue;
        }
        let body = message.body();
        let unit = match method.as_str() {
            "StartTransientUnit" => {
                type Start = (String, String, Vec<(String, OwnedVariant)>, Vec<(String, Vec<(String, OwnedVariant)>)>);
                let (unit, mode, properties, _): Start = body.deserialize().unwrap();
                let mut told: Vec<String> = properties
                    .iter()
                    .map(|(name, value)| format!("{name}={}:{}", value.value_signature(), **value))
                    .collect();
                told.sort();
                calls.lock().unwrap().push(format!("{method} {unit} {mode} {}", told.join(" ")));
                unit
            }
            "SetUnitProperties" => {
                let (unit, runtime, properties): (String, bool, Vec<(String, OwnedVariant)>) =
                    body.deserialize().unwrap();
                let names: Vec<&str> = properties.iter().map(|(name, _)| name.as_str()).collect();
                calls.lock().unwrap().push(format!("{method} {unit} {runtime} {}", names.join(" ")));
                bus.reply(&header, &()).await.unwrap();
                continue;
            }
            "StopUnit" => body.deserialize::<(String, String)>().unwrap().0,
            _ => {
                calls.lock().unwrap().push(method);
                bus.reply(&header, &()).await.unwrap();
                continue;
            }
        };
        let tried = calls.lock().unwrap().iter().filter(|call| call.contains(&unit)).count();
        if unit.starts_with("exists") && method == "StartTransientUnit" && tried == 1 {
            bus.reply_error(&header, "org.freedesktop.systemd1.UnitExists", &"already there").await.unwrap();
            continue;
        }
        if unit.starts_with("denied") {
            bus.reply_error(&header, "org.freedesktop.DBus.Error.AccessDenied", &"not you").await.unwrap();
            continue;
        }
        if unit.starts_with("gone") {
            bus.reply_error(&header, "org.freedesktop.systemd1.NoSuchUnit", &"no such unit").await.unwrap();
            continue;
        }
        job += 1;
        let path = format!("/org/freedesktop/systemd1/job/{job}");
        let path = OwnedObjectPath::from(ObjectPath::try_from(path).unwrap());
        let other = OwnedObjectPath::from(ObjectPath::try_from("/org/freedesktop/systemd1/job/999").unwrap());
        let result = if unit.starts_with("failing") { "failed" } else { "done" };
        let signal = async |path: &OwnedObjectPath, result: &str| {
            let body = (job, path.clone(), unit.as_str(), result);
            bus.emit_signal(None::<&str>, "/org/freedesktop/systemd1", MANAGER, "JobRemoved", &body).await.unwrap();
        };
        // Somebody else's job ends too, and ours may end before the caller knows its name.
        signal(&other, "failed").await;
        if unit.starts_with("quick") {
            signal(&path, result).await;
            bus.reply(&header, &path).await.unwrap();
        } else {
            bus.reply(&header, &path).await.unwrap();
            signal(&path, result).await;
        }
    }
}

fn limits() -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(1 << 20)).set_swap(Some(1 << 20));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(1024)).set_cpus(Some("0,2".to_owned()));
    let mut limits = LinuxResources::default();
    limits.set_memory(Some(memory)).set_cpu(Some(cpu));
    limits
}

#[tokio::test]
async fn scopes_are_made_changed_and_ended() {
    let bus = Bus::start();
    let calls = Calls::default();
    let connection = zbus::connection::Builder::address(bus.address.as_str()).build().await.unwrap();
    let server = tokio::spawn(stand_in(connection.clone(), calls.clone()));
    bus::wait_for_owner(&connection).await;

    let systemd = Systemd::connect(Some(&bus.address)).await.unwrap();
    systemd.start_scope("a.slice/a-b.slice/x.scope", 4242, Some(&limits()), true).await.unwrap();
    systemd.start_scope("a.slice/quick.scope", 1, None, true).await.unwrap();
    systemd.start_scope("a.slice/exists.scope", 1, None, true).await.unwrap();
    let failed = systemd.start_scope("a.slice/failing.scope", 1, None, true).await.unwrap_err();
    assert!(matches!(&failed, CgroupError::Job { result, .. } if result == "failed"), "{failed}");
    let denied = systemd.start_scope("a.slice/denied.scope", 1, None, true).await.unwrap_err();
    assert_eq!(denied.to_string(), "systemd: start denied.scope");
    systemd.set_limits("a.slice/x.scope", &LinuxResources::default(), &limits(), false).await.unwrap();
    systemd.stop_scope("a.slice/x.scope").await.unwrap();
    systemd.stop_scope("a.slice/gone.scope").await.unwrap();
    assert!(systemd.stop_scope("a/b").await.is_err());

    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls[0], "Subscribe");
    for part in [
        "StartTransientUnit x.scope fail ",
        "Slice=s:",
        "a-b.slice",
        "PIDs=au:",
        "4242",
        "Delegate=b:true",
        "MemoryMax=t:",
        "MemorySwapMax=t:",
        "CPUWeight=t:",
        "AllowedCPUs=ay:",
    ] {
        assert!(calls[1].contains(part), "{part}: {}", calls[1]);
    }
    assert!(calls.contains(&"ResetFailedUnit".to_owned()));
    assert!(calls.contains(&"SetUnitProperties x.scope true MemoryLimit CPUShares".to_owned()), "{calls:?}");
    server.abort();
}

#[tokio::test]
async fn a_bus_that_was_restarted_is_found_again() {
    let mut bus = Bus::start();
    let serve = async |address: &str| {
        let connection = zbus::connection::Builder::address(address).build().await.unwrap();
        tokio::spawn(stand_in(connection.clone(), Calls::default()));
        bus::wait_for_owner(&connection).await;
    };
    serve(&bus.address).await;
    let systemd = Systemd::connect(Some(&bus.address)).await.unwrap();
    systemd.stop_scope("a.slice/x.scope").await.unwrap();
    bus.restart();
    serve(&bus.address).await;
    systemd.stop_scope("a.slice/x.scope").await.unwrap();
}

#[tokio::test]
async fn no_bus_is_told() {
    let error = Systemd::connect(Some("unix:path=/nonexistent/bus")).await.unwrap_err();
    assert!(matches!(&error, CgroupError::Systemd { .. }), "{error}");
}
