"""Interface definitions that `rosbags` does not carry, as a ROS 2 Jazzy defines them.

A section starts with `=== package/kind/Name`; a service separates request and response with `---`.
Comments and default values are left out: neither is part of a type's hash.
"""

TEXT = """
=== std_srvs/srv/Empty
---
=== std_srvs/srv/SetBool
bool data
---
bool success
string message
=== std_srvs/srv/Trigger
---
bool success
string message

=== diagnostic_msgs/srv/AddDiagnostics
string load_namespace
---
bool success
string message
=== diagnostic_msgs/srv/SelfTest
---
string id
byte passed
DiagnosticStatus[] status

=== rcl_interfaces/srv/DescribeParameters
string[] names
---
ParameterDescriptor[] descriptors
=== rcl_interfaces/srv/GetLoggerLevels
string[] names
---
LoggerLevel[] levels
=== rcl_interfaces/srv/GetParameterTypes
string[] names
---
uint8[] types
=== rcl_interfaces/srv/GetParameters
string[] names
---
ParameterValue[] values
=== rcl_interfaces/srv/ListParameters
uint64 DEPTH_RECURSIVE=0
string[] prefixes
uint64 depth
---
ListParametersResult result
=== rcl_interfaces/srv/SetLoggerLevels
LoggerLevel[] levels
---
SetLoggerLevelsResult[] results
=== rcl_interfaces/srv/SetParameters
Parameter[] parameters
---
SetParametersResult[] results
=== rcl_interfaces/srv/SetParametersAtomically
Parameter[] parameters
---
SetParametersResult result

=== lifecycle_msgs/srv/ChangeState
Transition transition
---
bool success
=== lifecycle_msgs/srv/GetAvailableStates
---
State[] available_states
=== lifecycle_msgs/srv/GetAvailableTransitions
---
TransitionDescription[] available_transitions
=== lifecycle_msgs/srv/GetState
---
State current_state

=== vision_msgs/msg/Point2D
float64 x
float64 y
=== vision_msgs/msg/Pose2D
Point2D position
float64 theta
=== vision_msgs/msg/BoundingBox2D
Pose2D center
float64 size_x
float64 size_y
=== vision_msgs/msg/BoundingBox2DArray
std_msgs/Header header
BoundingBox2D[] boxes
=== vision_msgs/msg/BoundingBox3D
geometry_msgs/Pose center
geometry_msgs/Vector3 size
=== vision_msgs/msg/BoundingBox3DArray
std_msgs/Header header
BoundingBox3D[] boxes
=== vision_msgs/msg/ObjectHypothesis
string class_id
float64 score
=== vision_msgs/msg/ObjectHypothesisWithPose
ObjectHypothesis hypothesis
geometry_msgs/PoseWithCovariance pose
=== vision_msgs/msg/Classification
std_msgs/Header header
ObjectHypothesis[] results
=== vision_msgs/msg/Detection2D
std_msgs/Header header
ObjectHypothesisWithPose[] results
BoundingBox2D bbox
string id
=== vision_msgs/msg/Detection2DArray
std_msgs/Header header
Detection2D[] detections
=== vision_msgs/msg/Detection3D
std_msgs/Header header
ObjectHypothesisWithPose[] results
BoundingBox3D bbox
string id
=== vision_msgs/msg/Detection3DArray
std_msgs/Header header
Detection3D[] detections
=== vision_msgs/msg/VisionClass
uint16 class_id
string class_name
=== vision_msgs/msg/LabelInfo
std_msgs/Header header
VisionClass[] class_map
float32 threshold
=== vision_msgs/msg/VisionInfo
std_msgs/Header header
string method
string database_location
int32 database_version
"""

# Field defaults other than zero, which `rosbags` does not keep: {type: {field: value}}.
DEFAULTS = {'geometry_msgs/msg/Quaternion': {'w': 1.0}}
