//! A pod and a container as a test handles them: each verb panics with what it was about, or is a `try_` that may fail.

use std::path::{Path, PathBuf};

use cri_api::v1;

use crate::cri_log::{Log, Stream};
use crate::fixture::{Fixture, eventually, nanos, seconds};
use crate::spec;

/// The environment variable by which a container's processes are found.
const MARK: &str = "E2E_CONTAINER";

/// A running pod.
#[derive(Debug)]
pub struct Pod<'a> {
    fixture: &'a Fixture,
    /// Its id.
    pub id: String,
    /// What it was run with.
    pub config: v1::PodSandboxConfig,
}

impl<'a> Pod<'a> {
    pub(crate) fn new(fixture: &'a Fixture, id: String, config: v1::PodSandboxConfig) -> Pod<'a> {
        Pod { fixture, id, config }
    }

    /// Its status.
    pub async fn status(&self) -> v1::PodSandboxStatus {
        self.fixture.client.pod_status(&self.id).await.unwrap_or_else(|e| panic!("status of pod {}: {e:?}", self.id))
    }

    /// Its first address.
    pub async fn ip(&self) -> String {
        self.status().await.network.unwrap_or_default().ip
    }

    /// Creates a container that may be refused.
    pub async fn try_create(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Container<'a>, tonic::Status> {
        let mut config = spec::container(name, self.fixture.busybox(), command);
        let mark = format!("{name}-{:x}", nanos());
        config.envs.push(v1::KeyValue { key: MARK.to_owned(), value: mark.clone().into_bytes() });
        change(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let id = self.fixture.client.create_container(&self.id, config, self.config.clone()).await?;
        Ok(Container { fixture: self.fixture, id, log, mark })
    }

    /// Creates a container.
    pub async fn create_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Container<'a> {
        self.try_create(name, command, change).await.unwrap_or_else(|e| panic!("creating {name}: {e:?}"))
    }

    /// Creates and starts a container.
    pub async fn start_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Container<'a> {
        let container = self.create_with(name, command, change).await;
        let started = self.fixture.client.start_container(&container.id).await;
        started.unwrap_or_else(|e| panic!("starting {name}: {e:?}"));
        container
    }

    /// Creates and starts a container with the plainest configuration.
    pub async fn start(&self, name: &str, command: &[&str]) -> Container<'a> {
        self.start_with(name, command, |_| {}).await
    }
}

/// What an exec gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its stdout, lossily as text.
    pub stdout: String,
    /// Its stderr, lossily as text.
    pub stderr: String,
}

/// A container.
#[derive(Debug)]
pub struct Container<'a> {
    fixture: &'a Fixture,
    /// Its id.
    pub id: String,
    /// Its log file.
    pub log: PathBuf,
    mark: String,
}

impl Container<'_> {
    /// The pid, in this process's namespace, of the container's oldest process. The CRI does not tell it: it is found by
    /// a mark in its environment.
    pub fn pid(&self) -> i32 {
        self.pids().into_iter().min().unwrap_or_else(|| panic!("container {} has no process", self.id))
    }

    /// All processes of the container that kept its environment.
    pub fn pids(&self) -> Vec<i32> {
        crate::process::with_environment(MARK, &self.mark)
    }

    /// Its status.
    pub async fn status(&self) -> v1::ContainerStatus {
        let status = self.fixture.client.container_status(&self.id).await;
        status.unwrap_or_else(|e| panic!("status of {}: {e:?}", self.id))
    }

    /// Runs a command in it, for 30 s at most.
    pub async fn exec(&self, cmd: &[&str]) -> Output {
        let response = self.fixture.client.exec(&self.id, cmd, seconds(30)).await;
        let response = response.unwrap_or_else(|e| panic!("exec {cmd:?}: {e:?}"));
        Output {
            code: response.exit_code,
            stdout: String::from_utf8_lossy(&response.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&response.stderr).into_owned(),
        }
    }

    /// Runs a shell line in it and answers its stdout; it must exit 0.
    pub async fn sh(&self, line: &str) -> String {
        let output = self.exec(&["sh", "-c", line]).await;
        assert_eq!(output.code, 0, "{line}: {output:?}");
        output.stdout
    }

    /// Its log as it is now.
    pub fn log(&self) -> Log {
        Log::read(&self.log)
    }

    /// What it has written to a stream so far, by its log.
    pub fn written(&self, stream: Stream) -> String {
        let bytes = self.log().written(stream).unwrap_or_else(|e| panic!("{}: {e:?}", self.log.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its stdout has this line; a terminal's carriage return at the end may be there or not.
    pub async fn wait_for_line(&self, line: &str) {
        eventually(&format!("the log of {} says {line:?}", self.id), async || {
            // While it is being written the last line may be half there.
            let text = self.log().written(Stream::Stdout).ok()?;
            let mut lines = text.split_inclusive(|&byte| byte == b'\n').filter_map(|text| text.strip_suffix(b"\n"));
            lines.any(|text| text.strip_suffix(b"\r").unwrap_or(text) == line.as_bytes()).then_some(())
        })
        .await;
    }

    /// Waits until it has exited and answers the status it has then.
    pub async fn wait_exit(&self) -> v1::ContainerStatus {
        let exited = v1::ContainerState::ContainerExited as i32;
        eventually(&format!("container {} exits", self.id), async || {
            let status = self.status().await;
            (status.state == exited).then_some(status)
        })
        .await
    }
}
