//! What `hack/run` shows: a pod from an image, its log line, an exec and its address. Also makes the image, when there is no
//! registry to pull one from.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use test_e2e::client::Client;
use test_e2e::cri_log::{Log, Stream};
use test_e2e::{image, spec};

#[derive(Parser)]
#[command(about)]
struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write an image with Debian's busybox as an OCI archive
    Archive {
        /// The file to write
        file: PathBuf,
    },
    /// Run a pod, show what it does, and remove it
    Pod {
        /// The runtime's socket, as unix:///path
        #[arg(long)]
        endpoint: String,
        /// Leave the pod running
        #[arg(long)]
        keep: bool,
        /// The image, which the runtime has
        image: String,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Options::parse().action {
        Action::Archive { file } => {
            let image = image::busybox(image::Format::Oci)?.build();
            Ok(std::fs::write(file, image::archive::oci_archive(&image)?)?)
        }
        Action::Pod { endpoint, keep, image } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(show(&endpoint, keep, &image))
        }
    }
}

async fn show(endpoint: &str, keep: bool, image: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(endpoint).await?;
    let version = client.version().await?;
    println!("runtime    {} {}", version.runtime_name, version.runtime_version);

    let config = spec::pod("demo", &std::env::temp_dir().join("berth-demo"));
    std::fs::create_dir_all(&config.log_directory)?;
    let pod = client.run_pod(config.clone()).await?;
    println!("pod        {pod}");
    let script = "echo \"hello from $HOSTNAME\"; trap 'exit 0' TERM; sleep 1000000 & wait";
    let program = spec::container("hello", image, &["sh", "-c", script]);
    let log = PathBuf::from(&config.log_directory).join(&program.log_path);
    let container = client.create_container(&pod, program, config).await?;
    client.start_container(&container).await?;
    println!("container  {container}");

    println!("log        {}", first_line(&log).await?);
    let exec = client.exec(&container, &["uname", "-srm"], 10).await?;
    println!("exec       uname -srm: {}", String::from_utf8_lossy(&exec.stdout).trim_end());
    let network = client.pod_status(&pod).await?.network.unwrap_or_default();
    let more = network.additional_ips.iter().map(|ip| format!(", {}", ip.ip)).collect::<String>();
    println!("address    {}{more}", network.ip);
    if keep {
        return Ok(());
    }
    client.stop_container(&container, 10).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    println!("removed");
    Ok(())
}

/// The first line the container printed, waited for.
async fn first_line(log: &std::path::Path) -> Result<String, Box<dyn Error>> {
    for _ in 0..500 {
        if let Ok(text) = Log::read(log).written(Stream::Stdout)
            && let Some(line) = text.split(|&byte| byte == b'\n').next().filter(|line| !line.is_empty())
        {
            return Ok(String::from_utf8_lossy(line).into_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the container printed nothing".into())
}
