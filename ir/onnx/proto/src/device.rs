//! How nodes are spread over several devices (IR 11).

use crate::types::DimValue;

message! {
    /// A set of devices that nodes can be spread over.
    pub struct DeviceConfigurationProto {
        /// Name that nodes refer to.
        pub name: String = 1;
        /// Number of devices.
        pub num_devices: i32 = 2;
        /// Names of the devices, where they have some.
        pub device: Vec<String> = 3;
    }
}

message! {
    /// How one node is spread over a set of devices.
    pub struct NodeDeviceConfigurationProto {
        /// Name of the [`DeviceConfigurationProto`].
        pub configuration_id: String = 1;
        /// How its inputs and outputs are split.
        pub sharding_spec: Vec<ShardingSpecProto> = 2;
        /// Stage of a pipeline that the node is in; absent where it is in none.
        pub pipeline_stage: Option<i32> = 3;
    }
}

message! {
    /// How one tensor is split over devices.
    pub struct ShardingSpecProto {
        /// Name of the value.
        pub tensor_name: String = 1;
        /// Devices, by index; a negative one stands for a group.
        pub device: Vec<i64> = 2;
        /// Groups and the devices in them.
        pub index_to_device_group_map: Vec<IntIntListEntryProto> = 3;
        /// How each split axis is split.
        pub sharded_dim: Vec<ShardedDimProto> = 4;
    }
}

message! {
    /// A list of integers and its key.
    pub struct IntIntListEntryProto forced entry_forced {
        /// The key; always written.
        pub key: i64 = 1;
        /// The list.
        pub value: Vec<i64> = 2;
    }
}

fn entry_forced(_: &IntIntListEntryProto) -> u32 {
    1 << 1
}

message! {
    /// How one axis is split.
    pub struct ShardedDimProto {
        /// The axis, counted from the outermost; negative from behind.
        pub axis: i64 = 1;
        /// Its parts in order.
        pub simple_sharding: Vec<SimpleShardedDimProto> = 2;
    }
}

message! {
    /// Some elements of an axis, split evenly.
    pub struct SimpleShardedDimProto {
        /// Number of parts.
        pub num_shards: i64 = 3;
        oneof
        /// Number of elements; absent where unknown.
        dim: DimValue {
            Value(i64) = 1;
            Param(String) = 2;
        }
    }
}
