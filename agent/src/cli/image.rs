//! `berth image`: pull, import, list and remove images through the agent's socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::{Image, ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::admin::v1::admin_client::AdminClient;
use crate::admin::v1::pull_image_progress::Event;
use crate::admin::v1::{
    CommitContainerRequest, ExportImageRequest, ImportImageRequest, LayerProgress, Layers, PullImageRequest,
    PushImageRequest,
};

/// Image ids are told by so many digits.
const SHORT_ID: usize = 12;

/// What `berth image` takes.
#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = "/run/berth/berth.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Pull an image from its registry
    Pull {
        /// For example busybox, or registry.example/team/app:1
        reference: String,
        /// Credentials for the registry; the password is read from BERTH_REGISTRY_PASSWORD
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
    },
    /// Take the images of an OCI layout, an OCI archive or a docker archive into the store
    Import {
        /// Archive or folder
        file: PathBuf,
        /// A name for an image that has none in the archive
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Write an image as an OCI archive
    Export {
        /// Name, digest or id
        image: String,
        /// The file to write; one that is there is replaced
        file: PathBuf,
    },
    /// Send an image to its registry
    Push {
        /// Name, digest or id
        image: String,
        /// The name to push it under; the image's own if there is none
        target: Option<String>,
        /// Credentials for the registry; the password is read from BERTH_REGISTRY_PASSWORD
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
    },
    /// Make an image of a container's writable layer on top of its image
    Commit {
        /// The container's id, or the beginning of it
        container: String,
        /// The new image's name
        reference: String,
    },
    /// List images
    Ls {
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images with all their names
    Rm {
        /// Names, digests or ids
        #[arg(required = true)]
        references: Vec<String>,
    },
}

/// A command that the agent did not carry out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageFailure {
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
    #[error("the agent does not answer at {} (is `berth serve` running?)", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("cannot find {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    #[error("the agent ended the pull without a result")]
    NoResult,
    #[error("there is no image {}", .0.join(", "))]
    NoImage(Vec<String>),
}

impl From<Status> for ImageFailure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Runs one of the commands.
pub(super) fn run(arguments: ImageArguments) -> Result<(), ImageFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ImageFailure::Runtime)?;
    runtime.block_on(async {
        let channel = connect(&arguments.socket).await?;
        match arguments.action {
            Action::Pull { reference, username } => pull(channel, reference, username).await,
            Action::Import { file, name } => import(channel, &file, name).await,
            Action::Export { image, file } => export(channel, image, &file).await,
            Action::Push { image, target, username } => push(channel, image, target, username).await,
            Action::Commit { container, reference } => commit(channel, container, reference).await,
            Action::Ls { quiet } => list(channel, quiet).await,
            Action::Rm { references } => remove(channel, references).await,
        }
    })
}

async fn connect(path: &Path) -> Result<Channel, ImageFailure> {
    let failed = |source| ImageFailure::Connect { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let endpoint = Endpoint::from_shared(format!("unix://{}", absolute.display())).map_err(failed)?;
    endpoint.connect().await.map_err(failed)
}

async fn pull(channel: Channel, reference: String, username: Option<String>) -> Result<(), ImageFailure> {
    let password = password(username.as_deref());
    let request = PullImageRequest { reference, username: username.unwrap_or_default(), password };
    let mut events = AdminClient::new(channel).pull_image(request).await?.into_inner();
    let mut bars = Bars::default();
    while let Some(progress) = events.message().await? {
        match progress.event {
            Some(Event::Layers(layers)) => bars.begin(&layers),
            Some(Event::Layer(layer)) => bars.advance(&layer),
            Some(Event::Done(id)) => {
                bars.clear();
                println!("{id}");
                return Ok(());
            }
            None => {}
        }
    }
    Err(ImageFailure::NoResult)
}

/// A line for each layer, on standard error, if that is a terminal.
#[derive(Default)]
struct Bars {
    screen: MultiProgress,
    layers: HashMap<String, ProgressBar>,
}

impl Bars {
    fn begin(&mut self, layers: &Layers) {
        let style = ProgressStyle::with_template(
            "{prefix} {bar:30} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>12} {msg}",
        );
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        for layer in &layers.layers {
            let bar =
                ProgressBar::new(layer.size).with_style(style.clone()).with_prefix(short(&layer.digest).to_owned());
            let bar = self.screen.add(bar);
            if layer.present {
                bar.set_position(layer.size);
                bar.abandon_with_message("present");
            }
            self.layers.insert(layer.digest.clone(), bar);
        }
    }

    fn advance(&self, layer: &LayerProgress) {
        let Some(bar) = self.layers.get(&layer.digest) else { return };
        if layer.unpacked {
            bar.set_position(bar.length().unwrap_or_default());
            bar.abandon_with_message("done");
        } else {
            bar.set_position(layer.received);
        }
    }

    fn clear(&self) {
        // Nothing to do about a terminal that is gone.
        let _ = self.screen.clear();
    }
}

async fn import(channel: Channel, file: &Path, name: Option<String>) -> Result<(), ImageFailure> {
    // The agent opens it, and does not know where this command was run.
    let path = file.canonicalize().map_err(|source| ImageFailure::File { path: file.to_owned(), source })?;
    let path = path.to_string_lossy().into_owned();
    let request = ImportImageRequest { path, reference: name.unwrap_or_default() };
    for image in AdminClient::new(channel).import_image(request).await?.into_inner().images {
        println!("{}  {}", image.id, image.tags.first().map_or("<none>", String::as_str));
    }
    Ok(())
}

async fn export(channel: Channel, image: String, file: &Path) -> Result<(), ImageFailure> {
    let path = std::path::absolute(file).map_err(|source| ImageFailure::File { path: file.to_owned(), source })?;
    let request = ExportImageRequest { image, path: path.to_string_lossy().into_owned() };
    AdminClient::new(channel).export_image(request).await?;
    Ok(())
}

/// Of the environment, where it does not show in the list of processes.
fn password(username: Option<&str>) -> String {
    username.and_then(|_| std::env::var("BERTH_REGISTRY_PASSWORD").ok()).unwrap_or_default()
}

async fn push(
    channel: Channel,
    image: String,
    target: Option<String>,
    username: Option<String>,
) -> Result<(), ImageFailure> {
    let password = password(username.as_deref());
    let username = username.unwrap_or_default();
    let request = PushImageRequest { image, target: target.unwrap_or_default(), username, password };
    let pushed = AdminClient::new(channel).push_image(request).await?.into_inner();
    println!("{}  {} sent", pushed.reference, indicatif::HumanBytes(pushed.sent));
    Ok(())
}

async fn commit(channel: Channel, container: String, reference: String) -> Result<(), ImageFailure> {
    let request = CommitContainerRequest { container, reference };
    println!("{}", AdminClient::new(channel).commit_container(request).await?.into_inner().id);
    Ok(())
}

async fn list(channel: Channel, quiet: bool) -> Result<(), ImageFailure> {
    let images = ImageServiceClient::new(channel).list_images(ListImagesRequest::default()).await?.into_inner().images;
    if quiet {
        images.iter().for_each(|image| println!("{}", image.id));
    } else {
        print!("{}", table(&images));
    }
    Ok(())
}

/// One line for each name.
fn table(images: &[Image]) -> String {
    let mut rows = vec![["NAME".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let nameless = ["<none>".to_owned()];
        for name in if names.is_empty() { &nameless[..] } else { names } {
            let size = indicatif::HumanBytes(image.size).to_string();
            rows.push([name.clone(), short(&image.id).to_owned(), size]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    rows.iter().map(|[name, id, size]| format!("{name:first$}  {id:second$}  {size}\n")).collect()
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..SHORT_ID).unwrap_or(hex)
}

/// To the CRI it is no failure to remove what is not there; to whoever typed a name it is.
async fn remove(channel: Channel, references: Vec<String>) -> Result<(), ImageFailure> {
    let mut client = ImageServiceClient::new(channel);
    let mut unknown = Vec::new();
    for name in references {
        let image = Some(ImageSpec { image: name.clone(), ..ImageSpec::default() });
        let status = client.image_status(ImageStatusRequest { image: image.clone(), verbose: false });
        if status.await?.into_inner().image.is_none() {
            unknown.push(name);
        } else {
            client.remove_image(RemoveImageRequest { image }).await?;
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(ImageFailure::NoImage(unknown)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_name() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let named = Image {
            id: id.clone(),
            repo_tags: vec!["r.io/a:1".into(), "r.io/a:22".into()],
            size: 2048,
            ..Image::default()
        };
        let nameless = Image { id, ..Image::default() };
        let text = table(&[named, nameless]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("r.io/a:1   abababababab  2.00 KiB\n") && text.contains("<none>"), "{text}");
    }
}
