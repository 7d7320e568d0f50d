//! RestorePod: what the archive has → the containers' archives beside it → pod run → its containers made from them → started. When a
//! step fails, nothing of the pod is left.

use std::path::PathBuf;
use std::sync::Arc;

use cri_api::v1::{ContainerConfig, PodSandboxConfig};

use super::checkpoint_pod::member;
use super::{Engine, Error, chain, detached};
use crate::checkpoint::{PodOptions, Reader, Staging};
use crate::model::{ContainerId, PodId};

/// A pod as it was asked for.
struct Wanted {
    archive: PathBuf,
    config: PodSandboxConfig,
    handler: String,
    containers: Vec<ContainerConfig>,
}

/// The same, with each container's own archive.
struct Matched {
    config: PodSandboxConfig,
    handler: String,
    containers: Vec<(ContainerConfig, PathBuf)>,
}

/// The pod, and its containers with their names.
pub type RestoredPod = (PodId, Vec<(String, ContainerId)>);

impl Engine {
    /// Runs a pod whose containers come from an archive of `checkpoint_pod`. Each container of the archive is made by the
    /// configuration of its name.
    ///
    /// # Errors
    /// When the archive cannot be used, or configurations and containers do not match; RunPodSandbox's, CreateContainer's and
    /// StartContainer's.
    pub async fn restore_pod(
        self: &Arc<Self>,
        archive: PathBuf,
        config: PodSandboxConfig,
        handler: String,
        containers: Vec<ContainerConfig>,
    ) -> Result<RestoredPod, Error> {
        if !archive.is_absolute() {
            let reason = format!("{:?} is not an absolute path", archive.display().to_string());
            return Err(Error::Invalid { field: "checkpoint_path", reason });
        }
        let engine = self.clone();
        let wanted = Wanted { archive, config, handler, containers };
        detached(async move {
            let (staging, matched) = engine.on_disk(move |engine| engine.lay_out(wanted)).await?;
            let restored = engine.bring_back(matched).await;
            let take_away = move |_: &Engine| {
                drop(staging);
                Ok(())
            };
            engine.on_disk(take_away).await?;
            restored
        })
        .await
    }

    /// The archives of the containers, and each configuration with its own.
    fn lay_out(&self, wanted: Wanted) -> Result<(Staging, Matched), Error> {
        let Wanted { archive, config, handler, containers } = wanted;
        let told = |source| Error::Archive { path: archive.clone(), source };
        let reader = Reader::open(&archive).map_err(told)?;
        let options = reader.pod_options().map_err(told)?;
        let ids = match_up(&options, &containers)?;
        // A name that no container and no pod has: swept at the next start if this one does not come so far.
        let name = PodId::random().map_err(|source| Error::System { op: "get random bytes for an id", source })?;
        let staging = Staging::make(self.paths.checkpoints().join(name.as_str())).map_err(told)?;
        let members: Vec<String> = ids.iter().map(member).collect();
        reader.extract_members(&members, &staging.content()).map_err(told)?;
        let paths = members.iter().map(|member| staging.content().join(member));
        let containers = containers.into_iter().zip(paths).collect();
        Ok((staging, Matched { config, handler, containers }))
    }

    async fn bring_back(self: &Arc<Self>, matched: Matched) -> Result<RestoredPod, Error> {
        let Matched { config, handler, containers } = matched;
        let pod = self.run_pod(config, handler).await?;
        match self.bring_back_containers(&pod, containers).await {
            Ok(containers) => Ok((pod, containers)),
            Err(error) => {
                if let Err(failure) = self.remove_pod(pod.as_str()).await {
                    tracing::error!(%pod, error = chain(&failure), "a pod that could not be restored was not removed");
                }
                Err(error)
            }
        }
    }

    async fn bring_back_containers(
        self: &Arc<Self>,
        pod: &PodId,
        containers: Vec<(ContainerConfig, PathBuf)>,
    ) -> Result<Vec<(String, ContainerId)>, Error> {
        let mut made = Vec::new();
        for (config, archive) in containers {
            let name = name_of(&config).to_owned();
            made.push((name, self.create_container_from(pod.as_str(), config, Some(archive)).await?));
        }
        for (_, id) in &made {
            self.start_container(id.as_str()).await?;
        }
        Ok(made)
    }
}

/// Which container of the archive each configuration is for: one for each, and none more.
fn match_up(options: &PodOptions, containers: &[ContainerConfig]) -> Result<Vec<ContainerId>, Error> {
    let refused = |reason: String| Error::Invalid { field: "container_configs", reason };
    let names: Vec<&str> = containers.iter().map(name_of).collect();
    if let Some(name) = options.containers.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(refused(format!("there is none for the archive's container {name:?}")));
    }
    let mut ids = Vec::new();
    for name in names {
        let id = options.containers.get(name);
        let id = id.ok_or_else(|| refused(format!("the archive has no container {name:?}")))?;
        let id: ContainerId = id.parse().map_err(|_| refused(format!("the archive's container {name:?} has no id")))?;
        if ids.contains(&id) {
            return Err(refused(format!("container {name:?} is there twice")));
        }
        ids.push(id);
    }
    Ok(ids)
}

fn name_of(config: &ContainerConfig) -> &str {
    config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

#[cfg(test)]
mod tests {
    use cri_api::v1::ContainerMetadata;

    use super::*;

    #[test]
    fn each_container_of_the_archive_has_one_configuration() {
        let (one, two) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        let containers = [("one", one.to_string()), ("two", two.to_string())];
        let containers = containers.map(|(name, id)| (name.to_owned(), id)).into();
        let options = PodOptions { containers, ..PodOptions::default() };
        let config = |name: &str| ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            ..ContainerConfig::default()
        };
        assert_eq!(match_up(&options, &[config("two"), config("one")]).unwrap(), [two, one.clone()]);
        for (configs, words) in [
            (vec![config("one")], "none for the archive's container \"two\""),
            (vec![config("one"), config("two"), config("three")], "no container \"three\""),
            (vec![config("one"), config("two"), config("one")], "twice"),
        ] {
            let error = match_up(&options, &configs).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let hostile =
            PodOptions { containers: [("x".to_owned(), "../../x".to_owned())].into(), ..PodOptions::default() };
        assert!(match_up(&hostile, &[config("x")]).is_err());
    }
}
