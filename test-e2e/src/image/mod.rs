//! Images as a registry stores them: a config, layers, a manifest. Everything is made here, from Debian's static
//! busybox and installed files, with the same bytes each time so that a layer that several images have is one layer.

use std::io;

use serde_json::{Value, json};

/// Images as one file: OCI archives.
pub mod archive;
/// Tar layers and their compression.
pub mod layer;

pub use layer::{Blob, Compression, Layer};

/// The media types of the two manifest formats a registry serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The OCI image specification.
    #[default]
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Docker,
}

impl Format {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The media type of an index (a manifest list).
    pub fn index(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Format::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (_, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Format::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// An image being put together.
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    format: Format,
    layers: Vec<Blob>,
    config: serde_json::Map<String, Value>,
    architecture: Option<String>,
}

/// A finished image: blobs and the manifest that names them.
#[derive(Clone, Debug)]
pub struct Image {
    /// The config blob; its digest is the image's id.
    pub config: Vec<u8>,
    /// Layers, the bottom one first.
    pub layers: Vec<Blob>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Which media types it uses.
    pub format: Format,
}

impl Image {
    /// The image's id: the digest of its config.
    pub fn id(&self) -> String {
        layer::digest(&self.config)
    }

    /// The digest a reference `name@sha256:…` has.
    pub fn manifest_digest(&self) -> String {
        layer::digest(&self.manifest)
    }
}

impl ImageBuilder {
    /// An image with no layer and no configuration.
    pub fn new(format: Format) -> ImageBuilder {
        ImageBuilder { format, ..Default::default() }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, layer: Blob) -> ImageBuilder {
        self.layers.push(layer);
        self
    }

    /// Sets a field of the image config, by its JSON name: `Cmd`, `Entrypoint`, `Env`, `User`, `WorkingDir`, `StopSignal`.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> ImageBuilder {
        self.config.insert(field.to_owned(), value.into());
        self
    }

    /// An architecture other than this machine's.
    pub fn architecture(mut self, name: &str) -> ImageBuilder {
        self.architecture = Some(name.to_owned());
        self
    }

    /// The finished image.
    pub fn build(self) -> Image {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": self.architecture.as_deref().unwrap_or(architecture()),
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": self.layers.iter().map(|_| json!({ "created_by": "test-e2e" })).collect::<Vec<_>>(),
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor(layer, self.format)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": { "mediaType": self.format.config(), "size": config.len(), "digest": layer::digest(&config) },
            "layers": layers,
        });
        Image { config, layers: self.layers, manifest: manifest.to_string().into_bytes(), format: self.format }
    }
}

fn descriptor(layer: &Blob, format: Format) -> Value {
    json!({ "mediaType": format.layer(layer.compression), "size": layer.bytes.len(), "digest": layer.digest })
}

/// An index over images for several platforms, as (architecture, image).
pub fn index(format: Format, images: &[(&str, &Image)]) -> Vec<u8> {
    let entry = |(architecture, image): &(&str, &Image)| {
        json!({
            "mediaType": image.format.manifest(),
            "size": image.manifest.len(),
            "digest": image.manifest_digest(),
            "platform": { "architecture": architecture, "os": "linux" },
        })
    };
    let manifests: Vec<Value> = images.iter().map(entry).collect();
    json!({ "schemaVersion": 2, "mediaType": format.index(), "manifests": manifests }).to_string().into_bytes()
}

/// This machine's architecture by its name in image configs.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The users the busybox images have.
pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    app:x:1000:1000:app:/home/app:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";

/// The groups the busybox images have; `app` is in `extra`.
pub const GROUP: &str = "root:x:0:\ndaemon:x:1:\napp:x:1000:\nextra:x:5000:app\nnobody:x:65534:\n";

/// The bottom layer of every test image: busybox, a link for each of its applets, users and groups.
pub fn busybox_layer() -> io::Result<Layer> {
    let busybox = std::fs::read("/bin/busybox")
        .map_err(|e| io::Error::new(e.kind(), format!("/bin/busybox: {e}; install Debian's busybox-static")))?;
    let list = std::process::Command::new("/bin/busybox").arg("--list").output()?;
    let mut layer = Layer::new();
    for folder in ["bin", "etc", "home", "home/app", "proc", "root", "sys", "usr", "usr/bin", "var"] {
        layer.folder(folder, 0o755)?;
    }
    layer.folder("tmp", 0o1777)?;
    layer.file("bin/busybox", &busybox, 0o755)?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|&name| name != "busybox") {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file("etc/passwd", PASSWD.as_bytes(), 0o644)?;
    layer.file("etc/group", GROUP.as_bytes(), 0o644)?;
    Ok(layer)
}

/// The image most tests run: a shell.
pub fn busybox(format: Format) -> io::Result<ImageBuilder> {
    let layer = busybox_layer()?.finish(Compression::Gzip)?;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Ok(ImageBuilder::new(format).layer(layer).set("Cmd", json!(["sh"])).set("Env", json!([path])))
}

/// Where the big image's files come from, with how many MiB of each: a mix of programs, libraries and small texts.
const BIG_SOURCES: [(&str, u64); 6] = [
    ("/usr/bin", 130),
    ("/usr/lib/x86_64-linux-gnu", 170),
    ("/usr/share", 120),
    ("/usr/lib/python3", 60),
    ("/usr/include", 60),
    ("/usr/lib/gcc", 130),
];

/// The image that pulls are measured with: seven gzip layers, a few hundred MB, thousands of files.
pub fn big() -> io::Result<Image> {
    let mut image = busybox(Format::Oci)?;
    for (source, mebibytes) in BIG_SOURCES {
        let mut layer = Layer::new();
        layer.tree(std::path::Path::new(source), mebibytes << 20)?;
        image = image.layer(layer.finish(Compression::Gzip)?);
    }
    Ok(image.build())
}
