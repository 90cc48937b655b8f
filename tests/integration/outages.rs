//! Brokers that are killed, stopped, or lead no more, while a worker runs; topics that grow. The worker goes on by itself,
//! and what it learned is what an undisturbed replay learns.

use std::time::Duration;

use deepfm_stream::kafka::client;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::live::Live;
use crate::support::{broker, cluster, rounds, wait_for};

#[test]
fn a_broker_that_is_killed_and_restarted_under_a_worker_costs_no_record_and_repeats_none() {
    let name = "a_broker_that_is_killed_and_restarted_under_a_worker_costs_no_record_and_repeats_none";
    let Some(cluster) = cluster::of_one(name) else { return };
    let mut live = Live::new(&cluster, "killed-broker", 1, "");
    live.patient();
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    for _ in 0..rounds(1, 10) {
        cluster.kill(1);
        cluster.restart(1);
        let announced = live.announced();
        live.wait_for_announced(&mut worker, announced + 2);
    }
    live.end_traffic();
    live.stop(worker);
    live.check();
}

#[test]
fn a_leader_that_is_killed_is_replaced_while_the_worker_goes_on() {
    let name = "a_leader_that_is_killed_is_replaced_while_the_worker_goes_on";
    let Some(cluster) = cluster::of_three(name) else { return };
    let mut live = Live::new(&cluster, "moved-leader", 3, "");
    live.patient();
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    for _ in 0..rounds(1, 6) {
        let leader = leader(&live);
        cluster.kill(leader);
        let announced = live.announced();
        live.wait_for_announced(&mut worker, announced + 2);
        assert_ne!(self::leader(&live), leader, "another broker leads");
        cluster.restart(leader);
    }
    live.end_traffic();
    live.stop(worker);
    live.check();
}

/// The broker that leads the first partition of impressions.
fn leader(live: &Live<'_>) -> usize {
    let consumer: BaseConsumer = client::base(&live.place.kafka).create().expect("the settings are valid");
    let topic = &live.place.kafka.impressions_topic;
    wait_for("a leader", || {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        usize::try_from(metadata.topics()[0].partitions()[0].leader()).ok()
    })
}

#[test]
fn a_broker_that_does_not_answer_for_a_while_is_waited_for() {
    let name = "a_broker_that_does_not_answer_for_a_while_is_waited_for";
    let Some(cluster) = cluster::of_one(name) else { return };
    let seconds = rounds(8, 90);
    let mut live = Live::new(&cluster, "silent-broker", 1, "[kafka.properties]\n\"socket.timeout.ms\" = \"3000\"\n");
    live.patient();
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    cluster.stop(1);
    wait_for("the worker's word that it has lost the brokers", || {
        assert!(worker.is_running(), "{}", live.said());
        live.said().contains("are lost (").then_some(())
    });
    let since = std::time::Instant::now();
    wait_for("a while without brokers", || {
        assert!(worker.is_running(), "{}", live.said());
        (since.elapsed() >= Duration::from_secs(seconds as u64)).then_some(())
    });
    cluster.resume(1);
    let announced = live.announced();
    live.wait_for_announced(&mut worker, announced + 2);
    live.end_traffic();
    live.stop(worker);
    live.check();
}

#[test]
fn partitions_that_are_added_under_a_worker_are_learned_once_and_replayed_alike() {
    let name = "partitions_that_are_added_under_a_worker_are_learned_once_and_replayed_alike";
    let Some(broker) = broker::real(name) else { return };
    let mut live = Live::new(broker, "grown", 1, "partition_refresh_seconds = 1\n");
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 1);
    let kafka = live.place.kafka.clone();
    let admin: AdminClient<DefaultClientContext> = client::base(&kafka).create().expect("the settings are valid");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let more = [NewPartitions::new(&kafka.impressions_topic, 4), NewPartitions::new(&kafka.clicks_topic, 3)];
    runtime.block_on(admin.create_partitions(&more, &AdminOptions::new())).expect("the broker makes them");
    live.end_traffic();
    live.send(2);
    wait_for("the new partitions", || (live.said().matches("was added").count() >= 3).then_some(()));
    let announced = live.announced();
    live.wait_for_announced(&mut worker, announced + 2);
    live.end_traffic();
    live.stop(worker);
    live.check();
}
