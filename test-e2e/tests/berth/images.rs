//! Images that are made and given away with `berth image`, and image volumes when the agent dies.

use cri_api::v1;
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::image::{Compression, Format, ImageBuilder, Layer};

fn use_image(image: &str) -> impl FnOnce(&mut v1::ContainerConfig) {
    let image = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    move |config| config.image = Some(image)
}

#[tokio::test]
async fn a_container_is_committed_exported_imported_and_run_again() {
    let e2e = Fixture::own("commit").await;
    let (_pod, container) = e2e.run("origin", &["sleep", "1000"]).await;
    container
        .sh("echo made > /made; rm /etc/group; rm -r /home && mkdir /home && touch /home/new; chmod 4711 /made")
        .await;
    let look = "cat /made; stat -c %a /made; ls /etc/group 2>&1; ls /home; id -un";
    let expected = "made\n4711\nls: /etc/group: No such file or directory\nnew\nroot\n";

    let id = e2e.agent().image(&["commit", &container.id[..12], "team/made:1"]).expect("commit");
    let told = e2e.client.image_status("team/made:1").await.expect("status").expect("the new image");
    assert_eq!((told.id.as_str(), told.repo_tags), (id.as_str(), vec!["docker.io/team/made:1".to_owned()]));
    assert_eq!(e2e.output_of("committed", look, use_image(&id)).await, (0, expected.to_owned()));

    let archive = e2e.folder("export").join("made.tar");
    let path = archive.display().to_string();
    e2e.agent().image(&["export", "team/made:1", &path]).expect("export");
    e2e.agent().image(&["rm", "team/made:1"]).expect("rm");
    assert_eq!(e2e.client.image_status("team/made:1").await.expect("status"), None);
    e2e.agent().image(&["import", &path]).expect("import");
    assert_eq!(e2e.output_of("imported", look, use_image("team/made:1")).await, (0, expected.to_owned()));

    let unknown = e2e.agent().image(&["commit", "ffffffffffff", "x"]).expect_err("no such container");
    assert!(unknown.to_string().contains("does not exist"), "{unknown}");
}

/// The columns of `berth image ls`, without its heading.
fn listed(e2e: &Fixture) -> Vec<Vec<String>> {
    let text = e2e.agent().image(&["ls"]).expect("ls");
    let mut lines = text.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()));
    let heading: Vec<&str> = lines.next().expect("a heading").collect();
    assert_eq!(heading, ["NAME", "ID", "SIZE"]);
    lines.map(|columns| columns.map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn images_are_pulled_listed_imported_and_removed_by_hand() {
    let e2e = Fixture::own("by-hand").await;
    e2e.agent().image(&["rm", e2e.busybox()]).expect("rm");
    assert_eq!(listed(&e2e), Vec::<Vec<String>>::new());
    assert_eq!(e2e.agent().image(&["ls", "--quiet"]).expect("ls"), "");

    let id = e2e.agent().image(&["pull", e2e.busybox()]).expect("pull");
    assert_eq!(e2e.client.image_status(e2e.busybox()).await.expect("status").map(|image| image.id), Some(id.clone()));
    let short = &id["sha256:".len()..][..12];
    let [row] = &listed(&e2e)[..] else { panic!("one image: {:?}", listed(&e2e)) };
    assert_eq!(row[..2], [e2e.busybox(), short]);
    assert!(row[2].ends_with("iB"), "{row:?}");
    assert_eq!(e2e.agent().image(&["ls", "-q"]).expect("ls"), id);

    let archive = e2e.folder("by-hand").join("image.tar");
    e2e.agent().image(&["export", &id, &archive.display().to_string()]).expect("export");
    e2e.agent().image(&["rm", short]).expect("rm by the id that ls shows");
    let told = e2e.agent().image(&["import", &archive.display().to_string()]).expect("import");
    let [row] = &listed(&e2e)[..] else { panic!("one image: {:?}", listed(&e2e)) };
    assert_eq!(row[0], e2e.busybox());
    assert!(told.starts_with(&format!("sha256:{}", row[1])) && told.ends_with(e2e.busybox()), "{told}: {row:?}");

    let unknown = format!("{}/e2e/none:1", e2e.registry().address);
    let refused = e2e.agent().image(&["pull", &unknown]).expect_err("there is no such image").to_string();
    assert!(refused.contains("e2e/none"), "{refused}");
    let refused = e2e.agent().image(&["rm", "no/such:1", e2e.busybox()]).expect_err("one is not there").to_string();
    assert!(refused.contains("there is no image no/such:1"), "{refused}");
    assert_eq!(listed(&e2e), Vec::<Vec<String>>::new(), "the other is removed all the same");
}

#[tokio::test]
async fn an_image_volume_survives_its_image_and_the_agent() {
    let mut e2e = Fixture::own("volume-crash").await;
    let mut layer = Layer::new();
    layer.file("kept", b"kept", 0o644).expect("file");
    let image = ImageBuilder::new(Format::Oci).layer(layer.finish(Compression::Gzip).expect("layer")).build();
    let layers = e2e.agent().root.join("layers");
    let folder = layers.join(image.layers[0].diff_id.trim_start_matches("sha256:"));
    let reference = e2e.registry().push("e2e/volume-crash", "1", &image).expect("push");
    let id = e2e.client.pull(&reference).await.expect("pull");
    let volume = v1::Mount {
        container_path: "/v".to_owned(),
        readonly: true,
        image: Some(v1::ImageSpec { image: id.clone(), ..Default::default() }),
        ..Default::default()
    };
    let (_pod, container) = e2e.run_with("volume-crash", &["sleep", "1000"], |c| c.mounts = vec![volume]).await;
    let container = container.id.clone();
    e2e.client.remove_image(&id).await.expect("remove");
    e2e.agent().kill();
    let machine = e2e.machine.clone();
    e2e.agent().launch(&machine.host).expect("the agent starts again");
    e2e.reconnect().await;
    // Recovery sweeps what nobody holds before it answers anything.
    let seen = e2e.client.exec(&container, &["cat", "/v/kept"], 10).await.expect("exec");
    assert_eq!(seen.stdout.as_ref(), b"kept");
    let told = e2e.client.container_status(&container).await.expect("status").mounts;
    assert_eq!(told[0].image.as_ref().map(|image| image.image_ref.as_str()), Some(id.as_str()));
    e2e.client.remove_container(&container).await.expect("remove");
    eventually("the layer goes with its last container", async || (!folder.exists()).then_some(())).await;
}
