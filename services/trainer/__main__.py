"""``python -m services.trainer``: the training service."""

from services.common.options import TrainingOptions
from services.common.stage_service import main
from services.common.stage_spec import StageServiceSpec
from services.trainer.device_name import device_name
from services.trainer.presets import training_device
from services.trainer.settings import TrainerSettings
from splatmill.v1 import progress_pb2, trainer_pb2, trainer_pb2_grpc

SPEC = StageServiceSpec(
    name="train",
    stage=progress_pb2.STAGE_TRAIN,
    function="services.trainer.stage:run",
    options=TrainingOptions,
    options_field="training",
    settings=TrainerSettings,
    port_setting="trainer_port",
    service_name="splatmill.v1.TrainerService",
    method="RunTraining",
    response=trainer_pb2.RunTrainingResponse,
    register=trainer_pb2_grpc.add_TrainerServiceServicer_to_server,
    device=device_name,
    calibration="services.trainer.calibration:run",
    training_device=training_device,
)

if __name__ == "__main__":
    main(SPEC)
