"""Each rule holds for template.yaml, and reports an otherwise valid template that breaks it."""

import copy
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from stepflake.lint.template import RULES, Rule, lint_template
from stepflake.lint.template.document import Template
from tests.unit.lint.edits import Document, Edit, drop, insert, put

PATH = Path(__file__).parents[3] / "template.yaml"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_projects_template_keeps(rule: Rule) -> None:
    assert list(rule(Template.read(PATH))) == []


GOOD: Document = yaml_parse("""
Parameters:
  Days: { Type: Number, Default: 30, Description: How long logs are kept. }
Globals:
  Function: { Tracing: Active, LoggingConfig: { LogFormat: JSON, LogGroup: !Ref Logs } }
Resources:
  Logs: { Type: AWS::Logs::LogGroup, Properties: { RetentionInDays: !Ref Days, KmsKeyId: key } }
  Api:
    Type: AWS::Serverless::Api
    Properties:
      OpenApiVersion: 3.0.1
      Auth: { DefaultAuthorizer: AWS_IAM }
      TracingEnabled: true
      AccessLogSetting: { DestinationArn: !GetAtt Logs.Arn, Format: '"$context.error.messageString"' }
      MethodSettings: [{ ThrottlingRateLimit: 1 }]
  Work:
    Type: AWS::Serverless::Function
    Properties:
      Description: Works.
      Handler: batch.process.handler
      Role: !GetAtt Role.Arn
      EventInvokeConfig: { DestinationConfig: { OnFailure: { Type: SQS, Destination: !GetAtt Dead.Arn } } }
      Events:
        Called: { Type: Api, Properties: { RestApiId: !Ref Api } }
        Queued:
          Type: SQS
          Properties: { Queue: !GetAtt Queue.Arn, FunctionResponseTypes: [ReportBatchItemFailures] }
        Streamed:
          Type: DynamoDB
          Properties: { DestinationConfig: { OnFailure: { Destination: !GetAtt Dead.Arn } } }
        Told: { Type: SNS, Properties: { Topic: !Ref Topic } }
        Landed: { Type: EventBridgeRule, Properties: { DeadLetterConfig: { Arn: !GetAtt Dead.Arn } } }
  Role:
    Type: AWS::IAM::Role
    Properties:
      ManagedPolicyArns:
        - !Sub arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs
        - !Ref Traces
      Policies:
        - PolicyName: work
          PolicyDocument:
            Statement:
              - { Effect: Allow, Action: [s3:GetObject, s3:PutObject], Resource: !Sub "${Bucket.Arn}/*" }
              - Effect: Allow
                Action: states:DescribeExecution
                Resource: !Sub arn:${AWS::Partition}:states:${AWS::Region}:1:execution:${AWS::StackName}-m/*
              - Effect: Allow
                Action: dynamodb:Query
                Resource: !GetAtt Table.Arn
                Condition: { ForAllValues:StringLike: { dynamodb:LeadingKeys: ["run#*"] } }
              - Effect: Deny
                Action: s3:*
                Resource: "*"
  Traces:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument: { Statement: [{ Effect: Allow, Action: xray:PutTraceSegments, Resource: "*" }] }
  Machine:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      DefinitionS3Location: statemachines/m.asl.json
      RoleArn: !GetAtt Role.Arn
      EncryptionConfiguration: { Type: CUSTOMER_MANAGED_KMS_KEY, KmsKeyId: key }
      TracingConfiguration: { Enabled: true }
      LoggingConfiguration:
        Level: ERROR
        IncludeExecutionData: false
        Destinations: [{ CloudWatchLogsLogGroup: { LogGroupArn: !GetAtt Logs.Arn } }]
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]
      KmsMasterKeyId: !If [HasKey, key, !Ref AWS::NoValue]
      RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 3 }
  Dead: { Type: AWS::SQS::Queue, Properties: { KmsMasterKeyId: key, MessageRetentionPeriod: 1209600 } }
  QueuePolicy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Queue, !Ref Dead]
      PolicyDocument:
        Statement:
          - Effect: Allow
            Principal: { Service: sns.amazonaws.com }
            Action: sqs:SendMessage
            Resource: !GetAtt Queue.Arn
          - !If
            - IsOnAws
            - Effect: Deny
              Principal: "*"
              Action: sqs:*
              Resource: [!GetAtt Queue.Arn, !GetAtt Dead.Arn]
              Condition: { Bool: { aws:SecureTransport: "false" } }
            - !Ref AWS::NoValue
  DeadAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      MetricName: ApproximateNumberOfMessagesVisible
      Dimensions: [{ Name: QueueName, Value: !GetAtt Dead.QueueName }]
  Topic: { Type: AWS::SNS::Topic, Properties: { KmsMasterKeyId: key } }
  TopicPolicy:
    Type: AWS::SNS::TopicPolicy
    Properties:
      Topics: [!Ref Topic]
      PolicyDocument:
        Statement:
          Effect: Deny
          Principal: "*"
          Action: sns:Publish
          Resource: !Ref Topic
          Condition: { Bool: { aws:SecureTransport: "false" } }
  Subscription:
    Type: AWS::SNS::Subscription
    Properties: { RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn } }
  Rule:
    Type: AWS::Events::Rule
    Properties: { Targets: [{ Arn: !GetAtt Queue.Arn, DeadLetterConfig: { Arn: !GetAtt Dead.Arn } }] }
  Schedule:
    Type: AWS::Scheduler::Schedule
    Properties: { Target: { DeadLetterConfig: { Arn: !GetAtt Dead.Arn } } }
  Mapping: { Type: AWS::Lambda::EventSourceMapping, Properties: { EventSourceArn: !GetAtt Queue.Arn } }
  Bucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      BucketEncryption:
        ServerSideEncryptionConfiguration: [{ ServerSideEncryptionByDefault: { KMSMasterKeyID: key } }]
      PublicAccessBlockConfiguration:
        BlockPublicAcls: true
        BlockPublicPolicy: true
        IgnorePublicAcls: true
        RestrictPublicBuckets: true
      LifecycleConfiguration:
        Rules:
          - { Status: Enabled, ExpirationInDays: 1 }
          - { Status: Enabled, AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 } }
  BucketPolicy:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: !Ref Bucket
      PolicyDocument:
        Statement:
          - Effect: Deny
            Principal: "*"
            Action: s3:*
            Resource: [!GetAtt Bucket.Arn, !Sub "${Bucket.Arn}/*"]
            Condition: { Bool: { aws:SecureTransport: "false" } }
  Table:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      SSESpecification: { SSEEnabled: true, KMSMasterKeyId: key }
      TimeToLiveSpecification: { Enabled: true }
      PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }
""")  # fmt: skip

WORK, QUEUED = "Resources.Work.Properties", "Resources.Work.Properties.Events.Queued.Properties"
STATEMENTS = "Resources.Role.Properties.Policies[0].PolicyDocument.Statement"
BUCKET, TLS = "Resources.Bucket.Properties", "Resources.BucketPolicy.Properties.PolicyDocument.Statement[0]"
MACHINE, API = "Resources.Machine.Properties", "Resources.Api.Properties"
ALL_BUCKETS = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*"}
EVERY_TABLE = {
    "Effect": "Allow",
    "Action": "dynamodb:GetItem",
    "Resource": {"Fn::Sub": "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:*"},
}
OTHERS = {"Fn::Sub": "arn:${AWS::Partition}:states:${AWS::Region}:1:execution:${AWS::StackName}-*:*"}
QUEUE_TLS = "Resources.QueuePolicy.Properties.PolicyDocument.Statement[1]"
OTHER_POLICY = {
    "Type": "AWS::SQS::QueuePolicy",
    "Properties": {"Queues": [{"Ref": "Queue"}], "PolicyDocument": {"Statement": []}},
}
MAYBE_ALL = {"Effect": "Allow", "Action": "sns:Publish", "Resource": {"Fn::If": ["C", {"Ref": "Topic"}, "*"]}}

MISTAKES: list[tuple[Edit, str]] = [
    (drop("Resources.Logs.Properties", "RetentionInDays"), "Logs: logs are kept for ever"),
    (put("Globals.Function", LoggingConfig={"LogFormat": "JSON"}), "Work: logs to a group that isn't here"),
    (put(WORK, LoggingConfig={"LogGroup": {"Ref": "Logs"}}), "Work: logs text"),
    (put(WORK, Handler="batch.proces.handler"), "Work: there is no lambdas/batch/proces.py"),
    (drop("Globals.Function", "Tracing"), "Work: isn't traced"),
    (drop(WORK, "Description"), "Work: has no Description"),
    (put(f"{STATEMENTS}[0]", Resource="*"), "Role: allows s3:GetObject on everything"),
    (drop(f"{STATEMENTS}[0]", "Resource"), "Role: allows s3:GetObject on everything"),
    (put(f"{STATEMENTS}[0]", Action="s3:*"), "Role: allows s3:*; name each action"),
    (drop(f"{STATEMENTS}[0]", "Action"), "Role: allows all but a few actions"),
    (insert(STATEMENTS, 0, ALL_BUCKETS), "Role: allows s3:GetObject on everything"),
    (insert(STATEMENTS, 0, EVERY_TABLE), "Role: allows dynamodb:GetItem on everything"),
    (insert(STATEMENTS, 0, MAYBE_ALL), "Role: allows sns:Publish on everything"),
    (put(WORK, Policies=[{"Statement": [ALL_BUCKETS]}]), "Work: allows s3:GetObject on everything"),
    (put("Resources.Traces.Properties.PolicyDocument.Statement[0]", Action="xray:PutTrace"),
     "Traces: allows xray:PutTrace on everything"),
    (insert("Resources.Role.Properties.ManagedPolicyArns", 0, "arn:aws:iam::aws:policy/AdministratorAccess"),
     "Role: has the AWS policy arn:aws:iam::aws:policy/AdministratorAccess"),
    (put(WORK, Policies=["AmazonS3FullAccess"]), "Work: has the AWS policy AmazonS3FullAccess"),
    (drop(WORK, "Role"), "Work: has no Role of its own"),
    (drop("Resources.Queue.Properties", "RedrivePolicy"), "Queue: has no dead-letter queue"),
    (drop("Resources.Queue.Properties.RedrivePolicy", "maxReceiveCount"), "Queue: has no dead-letter queue"),
    (drop("Resources.Dead.Properties", "MessageRetentionPeriod"), "Dead: forgets what failed"),
    (drop("Resources.Queue.Properties", "SqsManagedSseEnabled"), "Queue: isn't encrypted"),
    (drop("Resources.Dead.Properties", "KmsMasterKeyId"), "Dead: isn't encrypted"),
    (drop(f"{WORK}.Events.Landed.Properties", "DeadLetterConfig"), "Work.Landed: events that can't be"),
    (put(QUEUED, FunctionResponseTypes=[]), "Work.Queued: one failure repeats the"),
    (put(QUEUED, Queue="arn:aws:sqs:us-east-1:1:theirs"), "Work.Queued: its queue isn't here"),
    (drop(f"{WORK}.Events.Streamed.Properties", "DestinationConfig"), "Work.Streamed: records that fail"),
    (drop(WORK, "EventInvokeConfig"), "Work.Told: events that fail are lost"),
    (put("Resources.Mapping.Properties", EventSourceArn="x"), "Mapping: records that fail are lost"),
    (drop("Resources.Rule.Properties.Targets[0]", "DeadLetterConfig"), "Rule: events that can't be"),
    (put("Resources.Schedule.Properties", Target={}), "Schedule: events that can't be delivered"),
    (drop("Resources.Subscription.Properties", "RedrivePolicy"), "Subscription: messages that can't"),
    (put("Resources.Topic.Properties", Subscription=[]), "Topic: a subscription in a topic"),
    (drop(BUCKET, "BucketEncryption"), "Bucket: isn't encrypted"),
    (put(f"{BUCKET}.PublicAccessBlockConfiguration", IgnorePublicAcls=False), "Bucket: may be made public"),
    (put(f"{BUCKET}.LifecycleConfiguration.Rules[0]", Status="Disabled"), "with ExpirationInDays"),
    (drop(f"{BUCKET}.LifecycleConfiguration.Rules[1]", "AbortIncompleteMultipartUpload"), "with Abort"),
    (drop("Resources", "BucketPolicy"), "Bucket: can be used without TLS"),
    (put(TLS, Condition={}), "Bucket: can be used without TLS"),
    (put(TLS, Resource=[{"Fn::Sub": "${Bucket.Arn}/*"}]), "Bucket: can be used without TLS"),
    (put("Resources.BucketPolicy.Properties", Bucket={"Ref": "Other"}), "Bucket: can be used without TLS"),
    (drop("Resources", "QueuePolicy"), "Queue: can be used without TLS"),
    (put("Resources.QueuePolicy.Properties", Queues=[{"Ref": "Queue"}]), "Dead: can be used without TLS"),
    (put(f"{QUEUE_TLS}.Fn::If[1]", Resource=[{"Fn::GetAtt": "Queue.Arn"}]), "Dead: can be used without TLS"),
    (put(f"{QUEUE_TLS}.Fn::If[1]", Action="sqs:SendMessage"), "Queue: can be used without TLS"),
    (put("Resources", OtherPolicy=OTHER_POLICY), "Queue: has two policies, of which AWS keeps one"),
    (drop("Resources", "TopicPolicy"), "Topic: can be used without TLS"),
    (put("Resources.TopicPolicy.Properties.PolicyDocument.Statement", Action="sns:*"), "Topic: can be used"),
    (drop("Resources", "DeadAlarm"), "Dead: nobody learns that it has a message"),
    (put("Resources.DeadAlarm.Properties", MetricName="NumberOfMessagesSent"), "Dead: nobody learns"),
    (drop("Resources.Logs.Properties", "KmsKeyId"), "Logs: isn't encrypted with the stack's KMS key"),
    (drop("Resources.Queue.Properties", "KmsMasterKeyId"), "Queue: isn't encrypted with the stack's KMS key"),
    (drop("Resources.Topic.Properties", "KmsMasterKeyId"), "Topic: isn't encrypted with the stack's KMS key"),
    (drop(MACHINE, "EncryptionConfiguration"), "Machine: isn't encrypted with the stack's KMS key"),
    (put("Resources.Machine", Type="AWS::Serverless::StateMachine"), "Machine: SAM's resource has no"),
    (put(f"{BUCKET}.BucketEncryption", ServerSideEncryptionConfiguration=[{}]), "the stack's KMS key"),
    (drop("Resources.Table.Properties.SSESpecification", "KMSMasterKeyId"), "the stack's KMS key"),
    (put("Resources.Bucket", DeletionPolicy="Retain"), "Bucket: is deleted with the stack, or left over"),
    (drop("Resources.Table", "UpdateReplacePolicy"), "Table: is deleted when it is replaced"),
    (put(f"{STATEMENTS}[1]", Resource=OTHERS), "Role: what it names may be another stack's"),
    (drop(f"{STATEMENTS}[2]", "Condition"), "Role: allows dynamodb:Query on every item"),
    (drop("Resources.Table.Properties", "SSESpecification"), "Table: isn't encrypted"),
    (drop("Resources.Table.Properties", "TimeToLiveSpecification"), "Table: grows for ever"),
    (drop("Resources.Table.Properties", "PointInTimeRecoverySpecification"), "Table: can't be restored"),
    (drop(MACHINE, "TracingConfiguration"), "Machine: isn't traced"),
    (drop(MACHINE, "DefinitionS3Location"), "Machine: its definition isn't in statemachines/"),
    (drop(MACHINE, "LoggingConfiguration"), "Machine: logs nothing"),
    (put(f"{MACHINE}.LoggingConfiguration", Level="OFF"), "Machine: logs nothing"),
    (put(f"{MACHINE}.LoggingConfiguration", IncludeExecutionData=True), "Machine: logs rows"),
    (put(API, Auth={}), "Api: accepts requests that nobody signed"),
    (drop(API, "TracingEnabled"), "Api: isn't traced"),
    (drop(API, "AccessLogSetting"), "Api: keeps no access log"),
    (put(f"{API}.AccessLogSetting", Format='"$context.error.message"'), "a quote in $context.error.message"),
    (put(f"{API}.AccessLogSetting", Format='"$context.path"'), "Api: a quote in $context.path breaks"),
    (drop(API, "OpenApiVersion"), "Api: SAM gives it a stage that isn't throttled"),
    (put(API, MethodSettings=[]), "Api: isn't throttled"),
    (put(f"{API}.MethodSettings[0]", DataTraceEnabled=True), "Api: logs rows"),
    (put(f"{WORK}.Events.Called.Properties", Auth={"Authorizer": "NONE"}), "Work.Called: has an authorizer"),
    (put(WORK, FunctionUrlConfig={"AuthType": "NONE"}), "Work: can be called without the API"),
    (drop("Parameters.Days", "Description"), "Days: has no Description"),
    (drop("Parameters.Days", "Default"), "Days: has no Default"),
]  # fmt: skip


def broken_by(mistake: Edit) -> Template:
    document = copy.deepcopy(GOOD)
    mistake(document)
    return Template(PATH, document)


def test_a_template_in_order_has_no_findings() -> None:
    assert lint_template(Template(PATH, GOOD)) == []


@pytest.mark.parametrize(("mistake", "finding"), MISTAKES, ids=[finding for _, finding in MISTAKES])
def test_a_mistake_is_found(mistake: Edit, finding: str) -> None:
    findings = lint_template(broken_by(mistake))

    assert [each for each in findings if finding in str(each)], findings
    assert all(each.where and each.problem and each.remedy for each in findings)


def test_there_is_a_mistake_for_each_rule() -> None:
    templates = [broken_by(mistake) for mistake, _ in MISTAKES]

    assert [rule for rule in RULES if not any(list(rule(template)) for template in templates)] == []


def test_loops_are_written_out() -> None:
    document = yaml_parse("""
    Resources:
      Fn::ForEach::Queues:
        - Name
        - [a, b]
        - ${Name}Queue: { Type: AWS::SQS::Queue, Properties: { QueueName: !Sub "x-${Name}" } }
    Outputs:
      Fn::ForEach::Urls:
        - Name
        - [a, b]
        - ${Name}Url: { Value: { Ref: !Sub "${Name}Queue" } }
    """)

    template = Template(PATH, document)

    assert list(template.of_type("AWS::SQS::Queue")) == [
        ("aQueue", {"QueueName": "x-a"}),
        ("bQueue", {"QueueName": "x-b"}),
    ]
    assert template.outputs == {"aUrl": {"Value": {"Ref": "aQueue"}}, "bUrl": {"Value": {"Ref": "bQueue"}}}


def test_what_is_merged_counts_as_written() -> None:
    document = yaml_parse("""
    Resources:
      One: { Type: AWS::CloudWatch::Alarm, Properties: { <<: &Alarm { Period: 300, Threshold: 1 }, Statistic: Sum } }
      Two: { Type: AWS::CloudWatch::Alarm, Properties: { <<: *Alarm, Threshold: 5 } }
    """)  # noqa: E501

    assert dict(Template(PATH, document).of_type("AWS::CloudWatch::Alarm")) == {
        "One": {"Period": 300, "Threshold": 1, "Statistic": "Sum"},
        "Two": {"Period": 300, "Threshold": 5},
    }
