use std::time::Duration;

use crate::redis_server::RedisServerBuilder;
use crate::{Client, RedisServer, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: usize = 16_384;

/// A Redis Cluster on this machine. Node `i` of [`Cluster::primaries`] owns an equal range of slots.
#[derive(Debug)]
pub struct Cluster {
    primaries: Vec<RedisServer>,
    replicas: Vec<RedisServer>,
}

/// What a cluster is made of. Made by [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    node: RedisServerBuilder,
    primaries: usize,
    replicas_each: usize,
}

impl ClusterBuilder {
    /// Three unless told otherwise.
    pub fn primaries(mut self, count: usize) -> Self {
        self.primaries = count;
        self
    }

    /// One for each primary unless told otherwise.
    pub fn replicas_each(mut self, count: usize) -> Self {
        self.replicas_each = count;
        self
    }

    /// Starts the nodes, joins them, and waits until all of them serve all slots.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let start = || self.node.clone().cluster().start();
        let primaries: Vec<RedisServer> = (0..self.primaries).map(|_| start()).collect();
        let replicas: Vec<RedisServer> = (0..self.primaries * self.replicas_each).map(|_| start()).collect();
        let cluster = Cluster { primaries, replicas };
        cluster.give_out_slots();
        cluster.introduce();
        cluster.attach_replicas(self.replicas_each);
        cluster.wait_until_whole();
        cluster
    }
}

impl Cluster {
    /// Three primaries with a replica each.
    pub fn builder(server: Server) -> ClusterBuilder {
        ClusterBuilder { node: RedisServer::builder(server), primaries: 3, replicas_each: 1 }
    }

    /// As [`Cluster::builder`], each node with the module.
    pub fn with_module(server: Server) -> ClusterBuilder {
        Cluster::with_nodes(RedisServer::builder(server).module())
    }

    /// As [`Cluster::builder`], from nodes with any settings.
    pub fn with_nodes(node: RedisServerBuilder) -> ClusterBuilder {
        ClusterBuilder { node, primaries: 3, replicas_each: 1 }
    }

    /// The nodes that began as primaries.
    pub fn primaries(&mut self) -> &mut [RedisServer] {
        &mut self.primaries
    }

    /// The nodes that began as replicas; those of primary 0 first.
    pub fn replicas(&mut self) -> &mut [RedisServer] {
        &mut self.replicas
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &RedisServer> {
        self.primaries.iter().chain(&self.replicas)
    }

    /// The ports of all nodes.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes().map(RedisServer::port).collect()
    }

    /// The node with that port.
    #[track_caller]
    pub fn node(&mut self, port: u16) -> &mut RedisServer {
        let mut nodes = self.primaries.iter_mut().chain(&mut self.replicas);
        nodes.find(|node| node.port() == port).expect("a node of the cluster")
    }

    /// Moves the slot of a key, with all that is in it, to another node, as `redis-cli --cluster reshard` does.
    #[track_caller]
    pub fn move_slot(&mut self, key: &str, from: u16, to: u16) {
        let (mut source, mut target) = (self.node(from).client(), self.node(to).client());
        let slot = source.ok(&["CLUSTER", "KEYSLOT", key]).integer().to_string();
        let (source_id, target_id) = (source.ok(&["CLUSTER", "MYID"]).text(), target.ok(&["CLUSTER", "MYID"]).text());
        target.ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        loop {
            let keys = source.ok(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let Some(key) = keys.items().first() else { break };
            source.ok(&["MIGRATE", "127.0.0.1", &to.to_string(), &key.text(), "0", "10000"]);
        }
        for client in [&mut target, &mut source] {
            client.ok(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        }
    }

    /// A connection to the node that owns the slot of `key` by the first layout.
    #[track_caller]
    pub fn client_for(&self, key: &str) -> Client {
        let slot = self.primaries[0].client().ok(&["CLUSTER", "KEYSLOT", key]).integer();
        let owner = (0..self.primaries.len())
            .rfind(|&index| self.first_slot(index) <= slot as usize)
            .expect("the first range begins at slot 0");
        self.primaries[owner].client()
    }

    fn first_slot(&self, primary: usize) -> usize {
        primary * SLOTS / self.primaries.len()
    }

    fn give_out_slots(&self) {
        for (index, node) in self.primaries.iter().enumerate() {
            let (first, last) = (self.first_slot(index), self.first_slot(index + 1) - 1);
            let mut client = node.client();
            // Distinct epochs from the start, so that nodes need not sort out who is right.
            client.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            client.ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
    }

    fn introduce(&self) {
        let mut client = self.primaries[0].client();
        for node in self.nodes().skip(1) {
            let (port, bus_port) = (node.port().to_string(), node.bus_port().to_string());
            client.ok(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
        }
        let count = self.nodes().count();
        wait_until("all nodes know each other", PATIENCE, || {
            self.nodes().all(|node| {
                let known = node.client().ok(&["CLUSTER", "NODES"]).text();
                known.lines().count() == count && !known.contains("handshake")
            })
        });
    }

    fn attach_replicas(&self, replicas_each: usize) {
        if replicas_each == 0 {
            return;
        }
        for (index, replica) in self.replicas.iter().enumerate() {
            let primary = &self.primaries[index / replicas_each];
            let id = primary.client().ok(&["CLUSTER", "MYID"]).text();
            replica.client().ok(&["CLUSTER", "REPLICATE", &id]);
        }
    }

    fn wait_until_whole(&self) {
        wait_until("the cluster is whole", PATIENCE, || {
            self.nodes().all(|node| {
                let info = node.client().ok(&["CLUSTER", "INFO"]).text();
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_slots_ok:{SLOTS}"))
                    && info.contains(&format!("cluster_size:{}", self.primaries.len()))
            }) && self.replicas.iter().all(|replica| replica.info("master_link_status").as_deref() == Some("up"))
        });
    }
}
