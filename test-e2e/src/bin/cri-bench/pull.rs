//! Pulls of a large image, to the point where a power loss would not undo them.

use std::error::Error;
use std::time::Instant;

use nix::unistd::syncfs;
use test_e2e::image;
use test_e2e::registry::Registry;

use crate::Bench;
use crate::report::Report;
use crate::samples::Samples;

/// Pulls the big image, syncs the file system it went to, removes it; as often as is asked.
pub(crate) async fn durable(bench: &Bench, registry: &Registry, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let reference = format!("{}/bench/big:1", registry.address);
    if !registry.has("bench/big", "1")? {
        eprintln!("cri-bench: making the big image");
        registry.push("bench/big", "1", &image::big()?)?;
    }
    let mount = bench.client.image_fs_info().await?.image_filesystems.into_iter().find_map(|fs| fs.fs_id);
    // Its path is the runtime's, whose mounts may not be ours.
    let mountpoint = mount.ok_or("no image file system")?.mountpoint;
    let disk = bench.machine.host.run(|| std::fs::File::open(&mountpoint)).map_err(|e| format!("{mountpoint}: {e}"))?;
    let (mut answered, mut durable, mut cpu) = (Samples::default(), Samples::default(), 0.0);
    for _ in 0..bench.options.pulls {
        nix::unistd::sync();
        let (begun, before) = (Instant::now(), bench.cpu_ms());
        bench.client.pull(&reference).await?;
        answered.push(begun.elapsed());
        syncfs(&disk)?;
        durable.push(begun.elapsed());
        cpu += bench.cpu_ms() - before;
        bench.client.remove_image(&reference).await?;
        // Some runtimes delete what a removed image held only later.
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    report.latency("PullImage of the big image, until answered", &answered);
    report.latency("PullImage of the big image, until durable", &durable);
    report.figure("CPU per pull of the big image", cpu / bench.options.pulls as f64, "ms");
    Ok(())
}
