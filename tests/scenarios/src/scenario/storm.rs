//! `kill -9` at random moments while pods come and go.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt;
use serde_json::json;
use tokio::time::sleep;
use vk_core::config::NodeConfig;
use vk_core::provider::PodUid;
use vk_mock::{Latency, MockBackend, MockConfig};

use crate::agreement::agree;
use crate::daemon::{Daemon, DaemonHome};
use crate::history::History;
use crate::pods::{Pods, exit_code, uid_of};
use crate::virtual_node::{VirtualNode, backend_with, config};
use crate::workload::{annotated, with_restart_policy};
use crate::world::World;

/// A storm's measure.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// What everything random about it follows from.
    pub seed: u64,
    /// How often the node is killed.
    pub kills: u32,
    /// How long the node lives between two kills, at most.
    pub life: Duration,
    /// How many pods are created or deleted in a life, at most.
    pub changes: u32,
}

/// What a pod that was not deleted must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Ends(i32),
}

/// What the storm has done.
#[derive(Default)]
struct Fleet {
    serial: u32,
    /// The pods that were not deleted, by name.
    kept: BTreeMap<String, (PodUid, Fate)>,
    /// The pods that were, and still may have an object.
    deleted: Vec<String>,
}

/// Something that stands for a node, can be killed, and started again over the backend that it leaves.
trait Mortal: Sized {
    type Remains;
    fn name(&self) -> &str;
    async fn kill(self) -> Self::Remains;
    fn start(world: &World, remains: Self::Remains) -> Self;
    async fn agree(&mut self, world: &World);
    async fn remove(self, world: &World);
}

impl Mortal for VirtualNode {
    type Remains = (NodeConfig, MockBackend);

    fn name(&self) -> &str {
        &self.name
    }

    async fn kill(self) -> Self::Remains {
        self.kill().await
    }

    fn start(world: &World, (config, backend): Self::Remains) -> Self {
        Self::start(world, config, backend)
    }

    async fn agree(&mut self, world: &World) {
        agree(world, self).await;
    }

    async fn remove(self, world: &World) {
        self.remove(world).await;
    }
}

impl Mortal for Daemon {
    type Remains = DaemonHome;

    fn name(&self) -> &str {
        self.node()
    }

    async fn kill(self) -> Self::Remains {
        self.kill().await
    }

    fn start(_: &World, home: Self::Remains) -> Self {
        home.start()
    }

    async fn agree(&mut self, world: &World) {
        self.agree(world).await;
    }

    async fn remove(self, world: &World) {
        self.remove(world).await;
    }
}

/// Kills a node again and again while pods are created and deleted, then holds that none was started twice, none
/// is lost, none is left over, and each is in the state it should be in.
///
/// # Panics
/// When one is not; the message has the seed.
pub async fn blows_over(world: &World, storm: Storm) {
    let mut mock = MockConfig::default();
    mock.latency.create = Latency(Duration::from_millis(3));
    mock.latency.delete = Latency(Duration::from_millis(3));
    let mut config = config(world);
    config.pending_status_delay = Duration::from_millis(20);
    let node = VirtualNode::start(world, config, backend_with(world, mock));
    node.until_ready(world).await;
    told_with_its_seed(storm, rage(world, storm, node)).await;
}

/// The same with the daemon's process, killed by SIGKILL, on the cluster of a kubeconfig.
///
/// # Panics
/// When a pod is not as it should be; the message has the seed.
pub async fn blows_over_a_process(world: &World, kubeconfig: &Path, storm: Storm) {
    let mock = json!({"latency": {"create": "3ms", "delete": "3ms"}});
    let daemon = DaemonHome::new(world.node_name(), kubeconfig, mock).start();
    told_with_its_seed(storm, rage(world, storm, daemon)).await;
}

async fn told_with_its_seed(storm: Storm, rage: impl Future<Output = ()>) {
    let outcome = AssertUnwindSafe(rage).catch_unwind().await;
    if let Err(panic) = outcome {
        eprintln!("the storm of seed {} did not blow over: {storm:?}", storm.seed);
        std::panic::resume_unwind(panic);
    }
}

async fn rage<M: Mortal>(world: &World, storm: Storm, mut node: M) {
    // The engine's jitter follows from it too, where everything runs in one thread.
    fastrand::seed(storm.seed);
    let mut dice = fastrand::Rng::with_seed(storm.seed);
    let name = node.name().to_owned();
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let mut fleet = Fleet::default();
    for _ in 0..storm.kills {
        for _ in 0..dice.u32(0..=storm.changes) {
            change(&pods, &name, &mut fleet, &mut dice).await;
        }
        let life = storm.life.mul_f64(dice.f64() * dice.f64());
        sleep(life).await;
        // Where time stands still, moments are counted in polls.
        for _ in 0..dice.u32(0..60) {
            tokio::task::yield_now().await;
        }
        let remains = node.kill().await;
        if dice.u8(..) < 100 {
            change(&pods, &name, &mut fleet, &mut dice).await;
            sleep(storm.life.mul_f64(dice.f64() / 4.0)).await;
        }
        node = M::start(world, remains);
    }

    for (name, (uid, fate)) in &fleet.kept {
        let pod = match fate {
            Fate::Runs => pods.until_ready(name).await,
            Fate::Ends(0) => pods.until_phase(name, "Succeeded").await,
            Fate::Ends(_) => pods.until_phase(name, "Failed").await,
        };
        assert_eq!(uid_of(&pod), *uid, "{name}");
        if let Fate::Ends(code) = fate {
            assert_eq!(exit_code(&pod), Some(*code), "{name}: {:#?}", pod.status);
        }
    }
    for name in fleet.deleted.iter().filter(|name| !fleet.kept.contains_key(*name)) {
        pods.until_gone(name).await;
    }
    node.agree(world).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// Creates or deletes a pod.
async fn change(pods: &Pods, node: &str, fleet: &mut Fleet, dice: &mut fastrand::Rng) {
    if fleet.kept.len() > 20 || (!fleet.kept.is_empty() && dice.u8(..) < 110) {
        let Some(name) = fleet.kept.keys().nth(dice.usize(..fleet.kept.len())).cloned() else { return };
        fleet.kept.remove(&name);
        if dice.u8(..) < 80 {
            pods.delete_within(&name, 0).await;
            if dice.bool() {
                // The same name again, while its predecessor may still run.
                create(pods, node, fleet, &name, dice).await;
            }
        } else {
            pods.delete(&name).await;
        }
        fleet.deleted.push(name);
    } else {
        fleet.serial += 1;
        let name = format!("p{}", fleet.serial);
        create(pods, node, fleet, &name, dice).await;
    }
}

async fn create(pods: &Pods, node: &str, fleet: &mut Fleet, name: &str, dice: &mut fastrand::Rng) {
    let start = format!("{}ms", dice.u32(0..30));
    let stop = format!("{}ms", dice.u32(0..30));
    let mut script = vec![("start-latency", start.as_str()), ("termination-latency", stop.as_str())];
    let code = if dice.bool() { "0" } else { "3" };
    let (fate, policy) = if dice.u8(..) < 60 {
        script.extend([("run-duration", "40ms"), ("exit-code", code)]);
        (Fate::Ends(if code == "0" { 0 } else { 3 }), "Never")
    } else {
        (Fate::Runs, "Always")
    };
    if dice.u8(..) < 40 {
        script.push(("fail-create", "unavailable:1"));
    }
    if dice.u8(..) < 40 {
        script.push(("fail-delete", "unavailable:1"));
    }
    let created = pods.create(&with_restart_policy(annotated(name, node, &script), policy)).await;
    fleet.kept.insert(name.to_owned(), (uid_of(&created), fate));
}
